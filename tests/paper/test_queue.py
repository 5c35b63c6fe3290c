"""Dask's workers over shared run folders, killed workers included."""

import os
import signal
import threading
import time

import pytest
from short_runs import SHORT, TASK

from laperm_lib.errors import LaPermError
from laperm_lib.paper import queue
from laperm_lib.paper.runs import RunFolder, Task
from laperm_lib.paper.settings import PUBLISHED, quick

distributed = pytest.importorskip("distributed", reason="needs Dask: the extra `cluster`")


def test_impossible_sweeps(tmp_path):
    with pytest.raises(ValueError, match="workers is at least 1"):
        queue.sweep([TASK], tmp_path, workers=0)
    with pytest.raises(LaPermError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        queue.sweep([TASK], tmp_path, scheduler="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_reports_what_fails(tmp_path):
    tasks = [Task("f1", SHORT.replace(sync_period=k), s) for k in (10, 20) for s in (0, 1)]
    RunFolder(tmp_path, tasks[0]).run()
    finished = os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns
    # An experiment whose data cannot be had fails, and does not stop the others.
    missing = Task("f1", PUBLISHED["f1"], seed=0)
    results = queue.sweep([*tasks, missing], tmp_path, workers=2, data_dir=str(tmp_path))
    assert list(results) == [task.name for task in [*tasks, missing]]
    assert "DatasetUnavailableError" in results.pop(missing.name)
    for task in tasks:
        assert results[task.name] == RunFolder(tmp_path, task).record()
        assert results[task.name].is_permutation
    assert os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns == finished


@pytest.mark.slow
def test_a_killed_workers_run_is_resumed_by_another(tmp_path):
    task = Task("f1", quick("f1").replace(epochs=400), 0)
    folder = tmp_path / "runs" / task.name
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        killed = []

        def kill_the_worker():
            while not list(folder.glob("checkpoint-*.npz")):
                time.sleep(0.02)
            killed.extend(w.pid for w in cluster.workers.values() if w.pid)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_the_worker)
        killer.start()
        results = queue.sweep(
            [task], tmp_path / "runs", scheduler=cluster.scheduler_address, every_seconds=0.2
        )
        killer.join()
        assert killed
        assert killed != [w.pid for w in cluster.workers.values()]
    alone = RunFolder(tmp_path / "alone", task).run()
    assert results[task.name].evaluations == alone.evaluations
    assert results[task.name].final == alone.final
