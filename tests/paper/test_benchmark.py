"""The paper's table and sweeps as tasks, their cost, and what is missing of them."""

import shutil
import time
from itertools import product

import keras
import pytest
from short_runs import SHORT, TASK, made

from laperm_lib.paper import benchmark, networks, records, training
from laperm_lib.paper.benchmark import ROWS, SWEEPS, Report, missing, plan, run_missing, variant
from laperm_lib.paper.runs import RunFolder, State, Task
from laperm_lib.paper.settings import PROFILES, PUBLISHED, quick, short
from laperm_lib.paper.training import Stop, Stopped

TASKS = [Task("f1", SHORT, seed) for seed in (0, 1)]
MIXED = Task("f1", SHORT.replace(precision="mixed_bfloat16"), 0)
LONGER = Task("f1", SHORT.replace(epochs=8), 0)


def tasks(states):
    return [state.task for state in states]


def test_the_rows_are_the_papers():
    """FACTS.md's table, read again."""
    assert {row.experiment: (row.pruned, row.sync_period, row.accuracy) for row in ROWS} == {
        "conv7": (0, 1200, 0.9972),
        "conv2": (0, 1000, 0.7821),
        "conv4": (0, 1000, 0.8917),
        "conv13": (0, 1000, 0.9221),
        "resnet50": (0, 400, 0.9253),
        "resnet50_30": (30, 800, 0.9232),
        "resnet50_50": (50, 800, 0.9202),
        "resnet50_70": (70, 800, 0.9097),
        "f1": (40, 250, 0.8546),
        "f2": (92, 250, 0.7814),
    }
    for row in ROWS:
        settings = PUBLISHED[row.experiment]
        assert settings.method.period == row.sync_period
        assert PUBLISHED[row.baseline] == settings.replace(sync_period=None)
        if settings.network.shared_value is None:
            assert settings.network.pruned == row.pruned / 100


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_goes_through_the_published_value_and_changes_nothing_else(name):
    sweep = SWEEPS[name]
    found = benchmark.tasks(name, seeds=(0, 1))
    published = PUBLISHED[sweep.experiment]
    assert len({task.name for task in found}) == 2 * len(sweep.values)
    assert f"{sweep.experiment}-seed0" in {task.name for task in found}
    own = published.values()[sweep.setting]
    assert {task.settings.replace(**{sweep.setting: own}) for task in found} == {published}


def test_the_cost_of_every_network_is_known():
    assert set(benchmark.MILLISECONDS_PER_IMAGE) == set(networks.names())


@pytest.mark.parametrize("name", benchmark.names())
def test_every_name_makes_tasks_in_every_profile(name):
    for profile in PROFILES:
        for task in benchmark.tasks(name, profile=profile):
            assert benchmark.steps(task.settings) > 0
            assert benchmark.seconds(task.settings) > 0
            assert variant(task.experiment, task.settings).profile in (profile, "paper")


def test_tasks_are_all_combinations():
    found = benchmark.tasks("conv2", seeds=(0, 1), sync_period=(100, 1000, 4000), pruned=(0, 0.5))
    assert len({task.name for task in found}) == 12
    made = {(t.settings.method.period, t.settings.network.pruned, t.seed) for t in found}
    assert made == set(product((100, 1000, 4000), (0.0, 0.5), (0, 1)))
    assert {t.settings.replace(sync_period=1000, pruned=0) for t in found} == {PUBLISHED["conv2"]}


def test_impossible_tasks(monkeypatch):
    monkeypatch.setattr(benchmark, "_MOST_TASKS", 9)
    for wrong, why in (
        ({"profile": "long"}, "Unknown profile 'long'"),
        ({"speed": [1]}, "no setting 'speed'"),
        ({"sync_period": [0]}, "sync_period is an integer"),
        ({"sync_period": 20}, "sync_period is a list of values to try, got 20"),
        ({"initializer": "he_normal"}, "initializer is a list"),
        ({"seeds": 3}, "seeds is a list"),
        ({"sync_period": [20, 20]}, r"the same training, f1-seed0-.*given twice"),
        ({"seeds": [3, 3]}, "given twice"),
        ({"seeds": range(10**30)}, "more than 9 trainings of f1"),
        ({"name": "f3"}, "Unknown experiment"),
    ):
        with pytest.raises(ValueError, match=why):
            benchmark.tasks(**{"name": "f1", **wrong})


@pytest.mark.parametrize("name", ["f1_notebook", "f2", "conv7_adam", "conv2_initial"])
def test_a_task_begins_and_has_as_many_steps_as_the_benchmark_says(name, monkeypatch):
    """Every experiment builds and compiles; fit itself would take minutes."""
    seen = []

    def fit(self, batches, **_):
        seen.append(sum(len(labels) > 0 for _, labels in batches))
        raise Stopped

    monkeypatch.setattr(keras.Model, "fit", fit)
    settings = benchmark.tasks(name, profile="quick", held_out=[37])[-1].settings
    with pytest.raises(Stopped):
        training.run(settings, seed=0)
    assert seen == [benchmark.steps(settings)]


def test_the_plan_is_the_whole_table_once():
    planned = plan()
    assert len({task.name for task in planned}) == len(planned)
    assert {t.experiment for t in planned} >= {row.experiment for row in ROWS}
    assert {task.settings.data.held_out for task in planned} == {5000}
    assert max(task.seed for task in planned if task.experiment == "f1") == 9
    everything = plan("short", seeds=1, held_out=[0], precision=["mixed_bfloat16"])
    assert {task.settings.data.held_out for task in everything} == {0}
    assert {task.settings.network.precision for task in everything} == {"mixed_bfloat16"}
    assert {task.seed for task in everything} == {0}
    assert plan(seeds=0) == []


def test_variants_are_named_by_what_differs():
    published = PUBLISHED["conv2"]
    assert str(variant("conv2", published)) == "paper"
    assert str(variant("conv2", short("conv2"))) == "short"
    assert str(variant("conv2", quick("conv2"))) == "quick"
    beside = published.replace(held_out=5000, precision="mixed_bfloat16")
    assert str(variant("conv2", beside)) == "paper, precision=mixed_bfloat16, held_out=5000"
    assert variant("conv2", beside).is_as_published
    assert not variant("conv2", published.replace(sync_period=100)).is_as_published
    assert not variant("conv2", quick("conv2")).is_as_published


def test_the_cheapest_comes_first_and_what_was_begun_is_cheaper():
    assert tasks(missing([LONGER, *TASKS], [])) == [*TASKS, LONGER]
    begun = State(LONGER, 90, None)
    assert tasks(missing([LONGER, *TASKS], [begun])) == [LONGER, *TASKS]
    whole = benchmark.seconds(LONGER.settings)
    assert benchmark.seconds_left(begun) == pytest.approx(whole * (1 - 90 / 96))
    assert benchmark.seconds_left(State(LONGER, 0, made("f1"))) == 0
    # Another precision counts; finished in one and begun in the other is finished.
    assert tasks(missing(TASKS, [State(MIXED, 5, None)])) == [MIXED, TASKS[1]]
    both = [State(MIXED, 0, made("f1")), State(TASKS[0], 5, None)]
    for found in (both, both[::-1], both[:1]):
        assert tasks(missing(TASKS, found)) == [TASKS[1]]


def test_what_is_missing_is_trained_and_what_is_finished_or_shipped_is_not(run_folder, tmp_path):
    records.save([run_folder.record()], tmp_path / "pretrained" / "f1.json")
    done = RunFolder(tmp_path, TASKS[1]).run()
    planned = [LONGER, *TASKS, TASK]
    report = run_missing(planned, tmp_path, shipped=tmp_path / "pretrained")
    assert [(r.seed, r.settings.schedule.epochs) for r in report.finished] == [(0, 4), (0, 8)]
    assert (report.left, report.failed) == ((), {})
    assert RunFolder(tmp_path, TASKS[1]).record() == done
    left = RunFolder(tmp_path, TASKS[1]).path / ".network.npz.0123456789abcdef.part"
    left.write_bytes(b"half")  # by a process that was killed
    again = run_missing(planned, tmp_path, shipped=tmp_path / "pretrained")
    assert again == Report((), (), {})
    assert not left.exists()
    lock = RunFolder(tmp_path, TASKS[1]).path / "lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # what cannot be locked is left as it is
    assert run_missing(planned, tmp_path, shipped=tmp_path / "pretrained") == again


def test_a_plan_that_is_stopped_resumes(tmp_path):
    asked = []

    def stop():
        asked.append(None)
        return len(asked) >= 1 + (20 if keras.backend.backend() == "torch" else 1)

    report = run_missing(TASKS, tmp_path, stop=Stop(after=0))
    assert tasks(report.left) == TASKS
    assert not list(tmp_path.iterdir())
    report = run_missing(TASKS, tmp_path, stop=stop)
    assert report.finished == ()
    assert [(s.task, s.step) for s in report.left] == [(TASKS[0], 20), (TASKS[1], 0)]
    rest = run_missing(TASKS, tmp_path).finished
    assert [record.seed for record in rest] == [0, 1]
    assert [e.step for e in rest[0].evaluations] == [20, 40]


def test_a_run_that_fails_or_is_another_process_s_does_not_stop_the_others(tmp_path):
    no_data = Task("f1", PUBLISHED["f1"].replace(epochs=1), 0)
    with RunFolder(tmp_path, TASKS[0]).lock():
        report = run_missing([no_data, *TASKS], tmp_path, data_dir=str(tmp_path))
    assert [record.seed for record in report.finished] == [1]
    assert list(report.failed) == [no_data.name]
    assert "mnist.npz" in report.failed[no_data.name]
    assert tasks(report.left) == [TASKS[0]]


def test_only_the_first_run_counts_the_seconds_of_the_program_s_start(tmp_path):
    first, second = run_missing(TASKS, tmp_path, began=time.perf_counter() - 500).finished
    assert first.seconds > 500 > second.seconds


def test_a_run_that_another_process_finishes_meanwhile_counts(run_folder, tmp_path):
    asked = []

    def stop():
        asked.append(None)
        if len(asked) == 2:  # before the second training: the first was found busy
            shutil.copytree(run_folder.path, tmp_path / TASK.name, dirs_exist_ok=True)
        return len(asked) == 2

    with RunFolder(tmp_path, TASK).lock():
        report = benchmark.run_each([TASK, LONGER], tmp_path, stop=stop)
    assert report.finished == (run_folder.record(),)
    assert (tasks(report.left), report.failed) == ([LONGER], {})


def test_the_overview_has_what_is_wanted_and_what_is_there():
    mixed = Task("f1", MIXED.settings, 1)
    finished = [State(task, 0, made("f1")) for task in (TASKS[0], LONGER)]
    found = [*finished, State(mixed, 12, None)]
    shown = benchmark.overview(TASKS, found)
    assert shown["finished"].tolist() == ["1 of 2", "1"]
    assert shown["begun"].tolist() == ["1 (25 %)", ""]
    assert shown["steps"].tolist() == [48, 96]
