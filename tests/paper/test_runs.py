"""Run folders: trained once, resumed where they were interrupted, kill -9 included."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from short_runs import SHORT, TASK, made

from laperm_lib import files
from laperm_lib.errors import BusyError, LaPermError, WeightFileError
from laperm_lib.paper import benchmark, records, runs
from laperm_lib.paper.locks import locked
from laperm_lib.paper.runs import RunFolder, State, Task, add_records, states, tasks_in
from laperm_lib.paper.settings import PUBLISHED


def begun(root, task=TASK, steps=()):
    """The folder of a run that has begun, perhaps with checkpoints."""
    folder = RunFolder(root, task)
    with folder.lock():
        for step in steps:
            folder.checkpoints.save(step, {"weight": np.ones(step)})
    return folder


def test_a_folder_is_named_by_what_decides_the_run():
    published = PUBLISHED["f1"]
    assert Task("f1", published, 0).name == "f1-seed0"
    names = {Task("f1", published.replace(sync_period=k), s).name for k in (1, 2) for s in (0, 1)}
    assert len(names) == 4
    assert all(len(name) == len("f1-seed0-12345678") for name in names)
    assert Task("f1", SHORT, np.int64(3)) == TASK
    assert type(Task("f1", SHORT, np.int64(3)).seed) is int
    with pytest.raises(ValueError, match="Unknown experiment 'f3'"):
        Task("f3", published, 0)
    with pytest.raises(ValueError, match="seed"):
        Task("f1", published, -1)


def test_shipped_networks_have_the_names_that_their_settings_give(repository):
    """Else nothing that was trained before would be found again."""
    names = [path.stem for path in (repository / "pretrained").glob("*-seed*.json")]
    assert {"conv2-seed0-7b5760fc", "conv7-seed1-dd9fd7a5", "f1-seed0", "f2-seed0"} <= set(names)
    for name in names:
        record = records.load_one(repository / "pretrained" / f"{name}.json")
        if record.experiment in PUBLISHED:
            assert Task(record.experiment, record.settings, record.seed).name == name


def test_a_finished_run_is_kept_with_its_network_and_not_run_again(run_folder, monkeypatch):
    record = runs.run(SHORT, seed=3)
    assert run_folder.record().final == record.final
    for model in (run_folder.network(), runs.read(run_folder.path).model):
        assert all(map(np.array_equal, model.get_weights(), record.model.get_weights()))
    names = {path.name for path in run_folder.path.iterdir()}
    assert names == {"configuration.json", "lock", "network.npz", "record.json"}
    monkeypatch.setattr(runs, "run", None)
    again = RunFolder(run_folder.path.parent, TASK)
    assert again.is_finished
    assert again.run() == run_folder.record()
    assert tasks_in(run_folder.path.parent) == [TASK]


def test_a_folder_of_another_training_is_refused(tmp_path, caplog):
    folder = begun(tmp_path)
    file = folder.path / "configuration.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "evaluate_after": [0, 7]}))
    with pytest.raises(LaPermError, match="another training of f1: evaluate_after differs"):
        RunFolder(tmp_path, TASK)
    old = {"experiment": "f1", "seed": 3, "settings": {"model": "f1"}, "evaluate_after": [0]}
    for text, why in (
        ("{", "does not hold the configuration"),
        ("{}", "does not hold the configuration"),
        (json.dumps(old), "made by an earlier version of laperm_lib; take another folder"),
        (json.dumps({**content, "experiment": "f3"}), "Unknown experiment 'f3'"),
    ):
        file.write_text(text)
        with pytest.raises(LaPermError, match=why):
            RunFolder(tmp_path, TASK)
        caplog.clear()
        assert tasks_in(tmp_path) == []
        assert f"{folder.path} is skipped" in caplog.text
        assert why in caplog.text


def test_folders_that_cannot_be_read_are_skipped_with_a_warning(run_folder, tmp_path, caplog):
    good, other, half = (begun(tmp_path, replace(TASK, seed=seed), steps=[7]) for seed in (3, 4, 5))
    shutil.copy(run_folder.path / "record.json", other.path)
    (half.path / "record.json").write_text("[")
    (tmp_path / "folder" / "configuration.json").mkdir(parents=True)
    (tmp_path / "no_run").mkdir()
    assert states(tmp_path) == [State(good.task, 7, None)]
    skipped = [record.getMessage().split(" is skipped: ") for record in caplog.records]
    assert [Path(path) for path, _ in skipped] == [tmp_path / "folder", other.path, half.path]
    assert "is the record of another training" in skipped[1][1]
    # Nor are they trained over, or taken for finished.
    report = benchmark.run_missing([other.task, half.task], tmp_path)
    assert list(report.failed) == [other.task.name, half.task.name]


def test_every_experiment_finds_its_folder_again_unless_renamed(tmp_path, caplog):
    tasks = [Task(name, settings, 0, (0, 1)) for name, settings in PUBLISHED.items()]
    folders = [RunFolder(tmp_path, task) for task in tasks]
    assert not list(tmp_path.iterdir())  # a folder is made when training begins
    for task, folder in zip(tasks, folders, strict=True):
        with folder.lock():
            assert task in tasks_in(tmp_path)
        assert RunFolder(tmp_path, task).path.exists()
    assert sorted(tasks_in(tmp_path), key=tasks.index) == tasks
    folders[0].path.rename(tmp_path / "kept")
    assert sorted(tasks_in(tmp_path), key=tasks.index) == tasks[1:]
    assert f"it was named {tasks[0].name}" in caplog.text


def test_a_run_that_fails_leaves_a_folder_only_with_a_checkpoint_or_record(run_folder, tmp_path):
    saved = begun(tmp_path, replace(TASK, seed=4), steps=[1])
    for folder, stays in ((RunFolder(tmp_path, TASK), False), (saved, True), (run_folder, True)):
        with pytest.raises(ValueError, match="no such thing"), folder.lock():
            raise ValueError("no such thing")
        assert folder.path.exists() == stays
    assert run_folder.record().final


def test_what_a_killed_process_leaves_is_deleted_by_the_next_to_get_the_lock(run_folder, tmp_path):
    folder = RunFolder(tmp_path, TASK)
    shutil.copytree(run_folder.path, folder.path)
    finished = set(folder.path.iterdir())
    folder.checkpoints.save(48, {})
    (folder.path / ".network.npz.0123456789abcdef.part").write_bytes(b"half")
    left = set(folder.path.iterdir())
    with locked(folder.path / "lock"), pytest.raises(BusyError):
        folder.run()
    assert set(folder.path.iterdir()) == left > finished  # it may be at work on them
    folder.run()
    assert set(folder.path.iterdir()) == finished


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "errors", [[], [FULL], [FULL] * 2, [FULL] * 3, [FULL, FULL, KeyboardInterrupt()], [OSError(5)]]
)
def test_a_network_takes_the_space_of_checkpoints(run_folder, tmp_path, monkeypatch, errors):
    """Where the disk is full, that of the older one first; if it fails, the latest comes back."""
    folder, seen, write = begun(tmp_path, steps=[1, 2]), [], runs.write
    latest = folder.checkpoints.path(2).read_bytes()

    def full(path, record):
        seen.append(folder.checkpoints.steps())
        if len(seen) <= len(errors):
            raise errors[len(seen) - 1]
        write(path, record)

    monkeypatch.setattr(runs, "write", full)
    monkeypatch.setattr(runs, "run", lambda *_, **__: runs.read(run_folder.path))
    if errors in ([], [FULL], [FULL] * 2):
        folder.run()
        assert seen == [[1, 2], [2], []][: len(errors) + 1]
        assert (folder.network().count_params(), folder.checkpoints.steps()) == (7840, [])
    else:
        with pytest.raises(type(errors[-1])):
            folder.run()
        assert folder.checkpoints.path(2).read_bytes() == latest
        assert not folder.is_finished


def test_what_has_been_trained(tmp_path):
    root, shipped = tmp_path / "runs", tmp_path / "pretrained"
    assert states(root, shipped) == []
    finished = made("f1", 0)
    folder = begun(root, Task("f1", finished.settings, 0))
    records.save([finished], folder.path / "record.json")
    begun(root, Task("f2", PUBLISHED["f2"], 1), steps=[4690])
    # One record is of the same run, one is new, one of an experiment that is none of the paper's.
    records.save([made("f1", 0, 0.9), made("f1", 1)], shipped / "f1.json")
    records.save([replace(made("f1", 2), experiment="sgperm")], shipped / "sgperm.json")
    (shipped / "manifest.json").write_text("{}")
    found = states(root, shipped)
    steps = {state.task.name: state.step for state in found}
    assert steps == {"f1-seed0": 0, "f1-seed1": 0, "f2-seed1": 4690}
    assert [state.record for state in found] == [finished, made("f1", 1), None]
    (shipped / "f2.json").write_text("{")
    with pytest.raises(LaPermError, match=r"f2\.json"):
        states(root, shipped)


def test_records_made_elsewhere_are_added_once(run_folder, tmp_path):
    folder = tmp_path / "pretrained"
    records.save([made("f1", 1), made("f2", 1)], tmp_path / "more.json")
    records.save([made("f1", 0)], folder / "f1.json")
    given = [run_folder.path, tmp_path / "more.json", run_folder.path]
    names = [TASK.name, "f1-seed1", "f2-seed1"]
    assert add_records(given, folder) == (names, [TASK.name])
    own = records.load(folder / "f1.json")
    assert own == (made("f1", 0), run_folder.record(), made("f1", 1))
    assert records.load(folder / "f2.json") == (made("f2", 1),)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert add_records(given, folder) == ([], [*names, TASK.name])
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_imports_at_the_same_time_add_a_record_once(tmp_path):
    path, new = tmp_path / "more.json", tmp_path / "new"
    records.save([made("f1", seed) for seed in range(4)], path)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: add_records([path], new), range(8)))
    assert sorted(len(added) for added, _ in found) == [0] * 7 + [4]
    assert len(records.load(new / "f1.json")) == 4


def test_the_network_of_a_run_that_cannot_be_recorded_stays(run_folder, tmp_path, monkeypatch):
    def fail(*_):
        raise FULL

    record = runs.read(run_folder.path)
    monkeypatch.setattr(records, "save", fail)
    with pytest.raises(OSError, match="No space"):
        runs.write(tmp_path, record)
    assert runs.read_network(tmp_path, record).count_params()
    with pytest.raises(LaPermError, match="no such file"):
        RunFolder(tmp_path, TASK).record()
    np.savez(tmp_path / "network.npz", kernel=np.zeros(3))
    with pytest.raises(WeightFileError, match="does not hold the weights of f1"):
        runs.read_network(tmp_path, record)


def test_a_record_that_contradicts_itself_or_its_network_is_not_added(run_folder, tmp_path):
    path, copy, destination = (tmp_path / name for name in ("more.json", "copy", "pretrained"))

    def assert_refused(why, *paths):
        with pytest.raises(LaPermError, match=why):
            add_records(paths, destination)
        assert not destination.exists()

    for change, why in (
        *(({"final": wrong}, "an accuracy is not a number from 0 to 1") for wrong in (1.5, None)),
        ({"final_held_out": -0.1}, "an accuracy is not a number from 0 to 1"),
        ({"evaluations": made("f1").evaluations * 2}, "not in the order of steps"),
        ({"is_permutation": False}, "not a permutation of its initial weights"),
        ({"experiment": "f3"}, "Unknown experiment 'f3'"),
    ):
        records.save([made("f2"), replace(made("f1"), **change)], path)
        assert_refused(f"more.json: .*{why}", path)
    shutil.copytree(run_folder.path, copy)
    kernel = np.load(copy / "network.npz")["dense/kernel"]
    np.savez(copy / "network.npz", **{"dense/kernel": kernel + 1})
    assert_refused("the network is not a permutation of its initial", copy)
    (copy / "network.npz").unlink()
    for missing in (copy, tmp_path / "none.json"):
        assert_refused("no such file", run_folder.path, missing)


# conv7 with dropout and augmentation: everything that a resumed run could get wrong.
SCRIPT = """
import sys
from laperm_lib.paper.runs import RunFolder, Task
from laperm_lib.paper.settings import quick
settings = quick("conv7").replace(epochs=2, sync_period=7, evaluate_every=7)
task = Task("conv7", settings, seed=1)
print(task.name, flush=True)
RunFolder(sys.argv[1], task).run(every_seconds=0)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_an_uninterrupted_one(tmp_path):
    def start(root):
        arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / root)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def latest():
        return max(map(str, killed.glob("checkpoint-*.npz")), default="")

    with start("whole") as process:
        name = process.stdout.readline().strip()
        assert process.wait() == 0
    whole, killed = (tmp_path / root / name for root in ("whole", "killed"))
    chance = random.Random(0)
    kills = []
    while len(kills) < 3:
        reached = latest()
        with start("killed") as process:
            while process.poll() is None and reached >= latest():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
            if process.wait() == 0:
                break  # it had finished before
        kills.append(reached)
    assert len(set(kills)) >= 2  # it did resume from where it was killed
    with start("killed") as process:
        assert process.wait() == 0
    ours, theirs = (files.read_arrays(path / "network.npz") for path in (killed, whole))
    assert ours.keys() == theirs.keys()
    for path, weights in theirs.items():
        np.testing.assert_array_equal(ours[path], weights, err_msg=path)
    ours, theirs = (records.load_one(path / "record.json") for path in (killed, whole))
    assert (ours.evaluations, ours.final) == (theirs.evaluations, theirs.final)
