"""Campaigns: what is missing, cheapest first, nothing twice, nothing lost."""

from dataclasses import replace

import keras
import numpy as np

from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import RunFolder, Task, campaign, results
from laperm_lib.paper.experiments.campaign import missing, run_missing
from laperm_lib.paper.experiments.results import State
from laperm_lib.paper.experiments.stopping import Stop

SHORT = replace(experiments.quick("f1"), epochs=4, sync_period=20, evaluate_every=20)  # 48 steps
TASKS = [Task("f1", SHORT, seed) for seed in (0, 1)]
LONGER = Task("f1", replace(SHORT, epochs=8), 0)


def stop_at(calls):
    """A stop that is due when it is asked for the so-manieth time, and from then on."""
    asked = []

    def stop():
        asked.append(None)
        return len(asked) >= calls

    return stop


def test_the_cheapest_comes_first_and_what_was_begun_is_cheaper():
    planned = [LONGER, *TASKS]
    assert [state.task for state in missing(planned, [])] == [*TASKS, LONGER]
    begun = State(LONGER, 90, None)
    assert [state.task for state in missing(planned, [begun])] == [LONGER, *TASKS]


def test_another_precision_counts():
    mixed = Task("f1", replace(SHORT, precision="mixed_bfloat16"), 0)
    assert [state.task for state in missing(TASKS, [State(mixed, 5, None)])] == [mixed, TASKS[1]]
    record = object()
    assert [s.task for s in missing(TASKS, [State(mixed, 48, record)])] == [TASKS[1]]
    # Finished in one precision, begun in the other: finished.
    both = [State(mixed, 48, record), State(TASKS[0], 5, None)]
    for found in (both, both[::-1]):
        assert [state.task for state in missing(TASKS, found)] == [TASKS[1]]


def test_a_campaign_trains_what_is_missing(tmp_path):
    done = RunFolder(tmp_path, TASKS[1]).run()
    report = run_missing([LONGER, *TASKS], tmp_path)
    assert [(r.seed, r.hyperparameters.epochs) for r in report.finished] == [(0, 4), (0, 8)]
    assert (report.left, report.failed) == ((), {})
    assert RunFolder(tmp_path, TASKS[1]).record() == done
    assert run_missing([LONGER, *TASKS], tmp_path).finished == ()


def test_what_is_shipped_is_not_trained_again(tmp_path):
    record = RunFolder(tmp_path / "elsewhere", TASKS[0]).run()
    experiments.save([record], tmp_path / "pretrained" / "f1.json")
    report = run_missing(TASKS[:1], tmp_path / "runs", pretrained=tmp_path / "pretrained")
    assert report == campaign.Report((), (), {})


def test_a_campaign_that_is_stopped_goes_on_and_ends_as_an_uncut_one(tmp_path):
    uncut = run_missing(TASKS, tmp_path / "uncut").finished
    steps_at_once = 1 if keras.backend.backend() == "torch" else 20
    report = run_missing(TASKS, tmp_path / "cut", stop=stop_at(1 + 20 // steps_at_once))
    assert report.finished == ()
    assert [(s.task, s.step) for s in report.left] == [(TASKS[0], 20), (TASKS[1], 0)]
    rest = run_missing(TASKS, tmp_path / "cut").finished
    for one, other in zip(uncut, rest, strict=True):
        assert one.evaluations == other.evaluations
    for task in TASKS:
        networks = [RunFolder(tmp_path / cut, task).network() for cut in ("uncut", "cut")]
        np.testing.assert_array_equal(*(network.get_weights()[0] for network in networks))


def test_no_time_is_no_run(tmp_path):
    report = run_missing(TASKS, tmp_path, stop=Stop(after=0))
    assert [state.task for state in report.left] == TASKS
    assert not list(tmp_path.iterdir())


def test_one_failing_run_does_not_stop_the_others(tmp_path):
    no_data = Task("f1", replace(experiments.PUBLISHED["f1"], epochs=1), 0)
    report = run_missing([no_data, TASKS[0]], tmp_path, data_dir=str(tmp_path))
    assert [record.seed for record in report.finished] == [0]
    assert list(report.failed) == [no_data.name]
    assert "mnist.npz" in report.failed[no_data.name]
    assert [state.task for state in report.left] == [no_data]


def test_a_run_of_another_process_is_left_to_it(tmp_path):
    with RunFolder(tmp_path, TASKS[0]).lock():
        report = run_missing(TASKS, tmp_path)
    assert [record.seed for record in report.finished] == [1]
    assert report.failed == {}
    assert [state.task for state in report.left] == TASKS[:1]


def test_the_overview_has_what_is_wanted_and_what_is_there():
    record = object()
    found = [
        State(TASKS[0], 48, record),
        State(Task("f1", replace(SHORT, precision="mixed_bfloat16"), 1), 12, None),
        State(LONGER, 96, record),
    ]
    standings = campaign.overview(TASKS, found)
    assert [(s.wanted, len(s.finished), len(s.begun)) for s in standings] == [(2, 1, 1), (0, 1, 0)]
    assert standings[0].steps == 48
    assert results.states("no-such-folder") == []
