"""Many trainings on one machine or a cluster, by Dask, over the same run folders."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from laperm_lib.errors import LaPermError
from laperm_lib.paper._extras import extra
from laperm_lib.paper.records import Record
from laperm_lib.paper.runs import RunFolder, Task

_log = logging.getLogger(__name__)


def sweep(
    tasks: Sequence[Task],
    root: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int = 1,
    data_dir: str | None = None,
    every_seconds: float = 60,
) -> dict[str, Record | str]:
    """Run tasks on Dask's workers, each in its run folder.

    Args:
        tasks: the trainings, as `benchmark.tasks` makes them.
        root: where all run folders are; every worker must see it under this name.
        scheduler: the address of a Dask scheduler, such as "tcp://10.0.0.1:8786". Default: a
            cluster on this machine, for this call.
        workers: how many processes that cluster has, at least 1. Default 1.
        data_dir: where the datasets lie, seen from the workers. Default: as `datasets.load`.
        every_seconds: the time between two checkpoints of a run. Default 60.

    Returns:
        For the name of each task its record, or what went wrong, as text. One failure does not
        stop the others.

    Raises:
        LaPermError: if the scheduler does not answer.
        ImportError: if Dask is not installed.
        ValueError: if `workers` is below 1.

    Examples:
        >>> from laperm_lib.paper.benchmark import tasks
        >>> found = sweep(tasks("conv7_k"), "runs", workers=4)  # doctest: +SKIP
    """
    if workers < 1:
        raise ValueError(f"workers is at least 1, got {workers}.")
    with extra("cluster"):
        import distributed
    folder = os.path.abspath(root)
    results: dict[str, Record | str] = {}
    with _client(distributed, scheduler, workers) as client:
        futures = client.map(
            _run,
            list(tasks),
            root=folder,
            data_dir=data_dir,
            every_seconds=every_seconds,
            key=[f"laperm-{task.name}" for task in tasks],
            pure=False,
        )
        task_of = dict(zip((future.key for future in futures), tasks, strict=True))
        for future in distributed.as_completed(futures):
            task = task_of[future.key]
            error = future.exception()
            if error is not None:
                results[task.name] = f"{type(error).__name__}: {error}"
                _log.error("%s: %s", task.name, results[task.name])
            else:
                results[task.name] = RunFolder(folder, task).record()
                _log.info("%s is finished (%d of %d).", task.name, len(results), len(tasks))
    return {task.name: results[task.name] for task in tasks}


def _run(task: Task, *, root: str, **how: Any) -> None:
    """What a worker does; the record is in the folder."""
    RunFolder(root, task).run(**how)


def _client(distributed: Any, scheduler: str | None, workers: int) -> Any:
    if scheduler is None:
        # A process each: Keras trains one network in a process. No dashboard: nothing is served.
        return distributed.Client(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        )
    try:
        return distributed.Client(scheduler, timeout=10)
    except OSError as error:
        raise LaPermError(f"No Dask scheduler answers at {scheduler}: {error}") from None
