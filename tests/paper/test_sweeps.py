"""Sweeps: grids of tasks, Dask's workers over shared run folders, killed workers."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from laperm_lib.errors import LaPermError
from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import RunFolder, sweeps

distributed = pytest.importorskip("distributed", reason="needs Dask: the extra `cluster`")

SHORT = {"epochs": [5], "evaluate_every": [20]}  # 60 steps


def test_a_grid_is_every_combination():
    tasks = sweeps.grid("conv2", seeds=(0, 1), sync_period=(100, 1000, 4000), pruned=(0.0, 0.5))
    assert len({task.name for task in tasks}) == 12
    assert {(t.settings.sync_period, t.settings.pruned, t.seed) for t in tasks} == {
        (k, p, s) for k in (100, 1000, 4000) for p in (0.0, 0.5) for s in (0, 1)
    }
    published = experiments.PUBLISHED["conv2"]
    assert all(replace(t.settings, sync_period=1000, pruned=0.0) == published for t in tasks)
    assert sweeps.grid("f1", profile="quick")[0].settings == experiments.quick("f1")


def test_impossible_grids():
    with pytest.raises(ValueError, match="no hyperparameter speed"):
        sweeps.grid("f1", speed=[1])
    with pytest.raises(ValueError, match="sync_period is an integer"):
        sweeps.grid("f1", sync_period=[0])
    with pytest.raises(ValueError, match="sync_period is a list of values to try, got 20"):
        sweeps.grid("f1", sync_period=20)
    with pytest.raises(ValueError, match="initializer is a list"):
        sweeps.grid("f1", initializer="he_normal")
    with pytest.raises(ValueError, match="seeds is a list"):
        sweeps.grid("f1", seeds=3)
    with pytest.raises(ValueError, match="Unknown experiment"):
        sweeps.grid("f3")
    with pytest.raises(ValueError, match=r"the same training, f1-seed0-.*given twice"):
        sweeps.grid("f1", sync_period=[20, 20])
    with pytest.raises(ValueError, match="given twice"):
        sweeps.grid("f1", seeds=[3, 3])


def test_impossible_sweeps(tmp_path):
    (task,) = sweeps.grid("f1", profile="quick")
    with pytest.raises(ValueError, match="workers is at least 1"):
        sweeps.sweep([task], tmp_path, workers=0)
    with pytest.raises(ValueError, match="the same training"):
        sweeps.sweep([task, task], tmp_path)
    with pytest.raises(LaPermError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        sweeps.sweep([task], tmp_path, scheduler="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_reports_what_fails(tmp_path):
    tasks = sweeps.grid("f1", seeds=(0, 1), profile="quick", sync_period=[10, 20], **SHORT)
    RunFolder(tmp_path, tasks[0]).run()
    finished = os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns
    # An experiment whose data cannot be had fails, and does not stop the others.
    missing = experiments.Task("f1", experiments.PUBLISHED["f1"], seed=0)
    results = sweeps.sweep([*tasks, missing], tmp_path, workers=2, data_dir=str(tmp_path))
    assert list(results) == [task.name for task in [*tasks, missing]]
    assert "DatasetUnavailableError" in results.pop(missing.name)
    for task in tasks:
        assert results[task.name] == RunFolder(tmp_path, task).record()
        assert results[task.name].is_permutation
    assert os.stat(tmp_path / tasks[0].name / "record.json").st_mtime_ns == finished


@pytest.mark.slow
def test_a_killed_workers_run_is_taken_up_by_another(tmp_path):
    (task,) = sweeps.grid("f1", profile="quick", epochs=[400], evaluate_every=[100])
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
        results = sweeps.sweep(
            [task],
            tmp_path / "runs",
            scheduler=cluster.scheduler_address,
            every_seconds=0.2,
        )
        killer.join()
        assert killed
        assert killed != [w.pid for w in cluster.workers.values()]
    alone = RunFolder(tmp_path / "alone", task).run()
    assert results[task.name].evaluations == alone.evaluations
    assert results[task.name].final == alone.final
