"""Dask's workers over shared run folders: killed, stopped, none at all."""

import os
import signal

import pytest
from short_runs import SHORT, TASK

from laperm_lib.errors import LaPermError
from laperm_lib.paper import _local_cluster, queue
from laperm_lib.paper.runs import RunFolder, Task
from laperm_lib.paper.settings import PUBLISHED, quick

distributed = pytest.importorskip("distributed", reason="needs Dask: the extra `cluster`")

LONG = Task("f1", quick("f1").replace(epochs=20000), 0)


@pytest.fixture
def cluster():
    """A cluster of the user's, whose worker is a thread in this process."""
    how = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **how) as cluster:
        yield cluster


def test_impossible_sweeps(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="workers is at least 1"):
        queue.sweep([TASK], tmp_path, workers=0)
    with pytest.raises(LaPermError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        queue.sweep([TASK], tmp_path, scheduler="tcp://127.0.0.1:1")
    monkeypatch.setattr(_local_cluster, "START_SECONDS", 0.1)
    with pytest.raises(LaPermError, match="Dask's workers do not start"):
        queue.sweep([TASK], tmp_path)


def test_a_sweep_runs_what_is_missing_and_reports_what_fails(tmp_path, cluster):
    tasks = [Task("f1", SHORT, seed) for seed in (0, 1)]
    RunFolder(tmp_path, tasks[0]).run()
    finished = os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns
    # An experiment whose data cannot be had fails, and does not stop the others.
    missing = Task("f1", PUBLISHED["f1"], seed=0)
    how = {"scheduler": cluster.scheduler_address, "data_dir": str(tmp_path)}
    with RunFolder(tmp_path, TASK).lock():
        found = queue.sweep([*tasks, missing, TASK], tmp_path, **how)
    assert "mnist.npz" in found.failed.pop(missing.name)
    assert found.failed == {}
    assert [state.task for state in found.left] == [TASK]  # trained by another process
    assert found.finished == tuple(RunFolder(tmp_path, task).record() for task in tasks)
    assert os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns == finished


def test_a_stopped_sweep_has_checkpoints_and_begins_nothing_more(tmp_path, cluster):
    checkpoints, address = RunFolder(tmp_path, LONG).checkpoints, cluster.scheduler_address
    how = {"every_seconds": 0.1, "stop": lambda: bool(checkpoints.steps())}
    found = queue.sweep([LONG, TASK], tmp_path, scheduler=address, **how)
    (long, short) = found.left
    assert long.step > 0
    assert (short.step, found.finished, found.failed) == (0, (), {})
    again = queue.sweep([TASK], tmp_path, scheduler=address)
    assert again.finished == (RunFolder(tmp_path, TASK).record(),)


def test_no_worker_or_no_scheduler_is_not_waited_for(tmp_path, monkeypatch, cluster):
    def close():
        cluster.close()
        return False

    gone = queue.sweep([LONG], tmp_path, scheduler=cluster.scheduler_address, stop=close)
    assert "Dask's scheduler is gone" in gone.failed[LONG.name]
    monkeypatch.setattr(queue, "_SECONDS_WITHOUT_WORKERS", 0.1)
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        found = queue.sweep([TASK], tmp_path, scheduler=empty.scheduler_address)
    assert "no worker of Dask's is left" in found.failed[TASK.name]
    assert found.finished == found.left == ()


@pytest.mark.slow
def test_killed_workers_runs_are_resumed(tmp_path):
    """By the cluster that a sweep starts, which serves no dashboard either."""
    tasks = [Task("f1", quick("f1").replace(epochs=400), seed) for seed in (0, 1)]
    folders = [RunFolder(tmp_path / "swept", task) for task in tasks]
    killed = []

    def stop():
        cluster = distributed.default_client().cluster
        workers = cluster.scheduler.workers.values()
        assert cluster.scheduler.services == {}
        assert all(worker.services == {} for worker in workers)
        if len(killed) < 2 and all(folder.checkpoints.steps() for folder in folders):
            killed.append(cluster.workers[len(killed)].pid)
            os.kill(killed[-1], signal.SIGKILL)
        return False

    found = queue.sweep(tasks, tmp_path / "swept", workers=2, every_seconds=0.2, stop=stop)
    assert len(killed) == 2
    assert (found.left, found.failed) == ((), {})
    alone = RunFolder(tmp_path / "alone", tasks[0]).run()
    assert found.finished[0].evaluations == alone.evaluations
    assert found.finished[0].final == alone.final
