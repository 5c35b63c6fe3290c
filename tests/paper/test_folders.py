"""Run folders: trained once, taken up where they were cut, kill -9 included."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest

from laperm_lib import files
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import RunFolder, Task, records, training
from laperm_lib.paper.studies import sgperm

QUICK = replace(experiments.quick("f1"), epochs=10, sync_period=50, evaluate_every=50)
TASK = Task("f1", QUICK, seed=3)


def test_a_folder_is_named_by_what_decides_the_run():
    published = experiments.PUBLISHED["f1"]
    assert Task("f1", published, 0).name == "f1-seed0"
    names = {Task("f1", replace(published, sync_period=k), s).name for k in (1, 2) for s in (0, 1)}
    assert len(names) == 4
    assert all(len(name) == len("f1-seed0-12345678") for name in names)
    with pytest.raises(ValueError, match="Unknown experiment 'f3'"):
        Task("f3", published, 0)
    with pytest.raises(ValueError, match="seed"):
        Task("f1", published, -1)


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    record = RunFolder(tmp_path, TASK).run()
    assert {path.name for path in (tmp_path / TASK.name).iterdir()} == {
        "configuration.json",
        "lock",
        "network.npz",
        "record.json",
    }
    monkeypatch.setattr(training, "run", None)
    again = RunFolder(tmp_path, TASK)
    assert again.is_finished
    assert again.run() == record == again.record()
    assert experiments.tasks_in(tmp_path) == [TASK]


def test_the_network_is_kept(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    record = folder.run()
    run = training.run(QUICK, seed=3)
    assert record.final == run.final
    for kept, weight in zip(folder.network().weights, run.model.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (kept, weight)))


def test_two_processes_do_not_train_the_same_run(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    folder.path.mkdir()
    with open(folder.path / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LaPermError, match="another process"):
            folder.run()
    folder.run()


def test_a_folder_of_another_training_is_refused(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    with folder.lock():
        pass
    file = folder.path / "configuration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "evaluate_after": [0, 7]}))
    with pytest.raises(LaPermError, match="another training"):
        RunFolder(tmp_path, TASK)
    file.write_text("{")
    with pytest.raises(LaPermError, match="does not hold the configuration"):
        RunFolder(tmp_path, TASK)
    with pytest.raises(LaPermError, match="does not hold the configuration"):
        experiments.tasks_in(tmp_path)
    file.write_text("{}")
    with pytest.raises(LaPermError, match="does not hold the configuration"):
        experiments.tasks_in(tmp_path)


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_fails_leaves_a_folder_only_with_a_checkpoint(tmp_path, monkeypatch, saved):
    folder = RunFolder(tmp_path, TASK)
    if saved:
        folder.checkpoints.save(1, {"weight": np.zeros(1)})

    def fail(*_, **__):
        raise ValueError("no such thing")

    with monkeypatch.context() as patched:
        patched.setattr(training, "run", fail)
        with pytest.raises(ValueError, match="no such thing"):
            folder.run()
    assert folder.path.exists() == saved
    if not saved:  # the way is free for another training, and for the same one
        with RunFolder(tmp_path, replace(TASK, evaluate_after=(7,))).lock():
            pass
        with pytest.raises(LaPermError, match="evaluate_after differs"):
            folder.run()


def test_a_finished_run_stays_whatever_fails_behind_it(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    record = folder.run()
    with pytest.raises(ValueError, match="later"), folder.lock():
        raise ValueError("later")
    assert RunFolder(tmp_path, TASK).record() == record


def test_a_folder_is_made_when_training_begins(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    assert experiments.tasks_in(tmp_path) == []
    assert not list(tmp_path.iterdir())
    with folder.lock():
        assert experiments.tasks_in(tmp_path) == [TASK]


def test_a_renamed_folder_is_passed_over(tmp_path, caplog):
    folder = RunFolder(tmp_path, TASK)
    with folder.lock():
        pass
    folder.path.rename(tmp_path / "kept")
    assert experiments.tasks_in(tmp_path) == []
    assert f"it has been {TASK.name}" in caplog.text


def test_the_network_of_a_run_that_cannot_be_recorded_is_not_lost(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, TASK)

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(records, "save", fail)
    with pytest.raises(OSError, match="No space"):
        folder.run()
    assert folder.network().count_params()


def test_a_foreign_network_is_refused(tmp_path):
    folder = RunFolder(tmp_path, TASK)
    with pytest.raises(WeightFileError, match="no such file"):
        folder.network()
    folder.path.mkdir()
    np.savez(folder.path / "network.npz", kernel=np.zeros(3))
    with pytest.raises(WeightFileError, match="does not hold the weights of f1"):
        folder.network()
    (folder.path / "record.json").write_text("[]")
    with pytest.raises(LaPermError, match="0 records, not one"):
        folder.record()


def test_a_task_is_one_that_a_folder_can_train():
    assert Task("f1", QUICK, np.int64(3)) == TASK
    assert type(Task("f1", QUICK, np.int64(3)).seed) is int
    with pytest.raises(ValueError, match="not with SGPermHyperparameters"):
        Task("f2", sgperm.SETTINGS, 0)


def test_a_run_not_finished_has_no_record(tmp_path):
    with pytest.raises(LaPermError, match="no such file"):
        RunFolder(tmp_path, TASK).record()


# conv7 with dropout and augmentation: everything that a resumed run could get wrong.
SCRIPT = """
import sys
from dataclasses import replace
from laperm_lib.paper import experiments
settings = replace(experiments.quick("conv7"), epochs=2, sync_period=7, evaluate_every=7)
task = experiments.Task("conv7", settings, seed=1)
print(task.name, flush=True)
experiments.RunFolder(sys.argv[1], task).run(every_seconds=0)
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_an_uncut_one(tmp_path):
    with start(tmp_path / "uncut") as process:
        name = process.stdout.readline().strip()
        assert process.wait() == 0
    folder = tmp_path / "cut" / name
    chance = random.Random(0)
    cuts = []
    while len(cuts) < 3:
        reached = max(map(str, folder.glob("checkpoint-*.npz")), default="")
        with start(tmp_path / "cut") as process:
            while process.poll() is None and reached >= max(
                map(str, folder.glob("checkpoint-*.npz")), default=""
            ):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
            if process.wait() == 0:
                break  # it had finished before
        cuts.append(reached)
    assert len(set(cuts)) >= 2  # it did go on from where it was cut
    with start(tmp_path / "cut") as process:
        assert process.wait() == 0
    both = [
        files.read_arrays(tmp_path / which / name / "network.npz") for which in ("uncut", "cut")
    ]
    assert both[0].keys() == both[1].keys()
    for path, weights in both[0].items():
        np.testing.assert_array_equal(both[1][path], weights, err_msg=path)
    records = [
        experiments.load(tmp_path / which / name / "record.json")[0] for which in ("uncut", "cut")
    ]
    assert records[0].evaluations == records[1].evaluations
    assert records[0].final == records[1].final
