"""Many trainings on one machine or a cluster, by Dask, over the same run folders.

Dask's scheduler and workers import this module in the thread in which they answer each other. So
Keras, which takes long to import, is imported by the trainings only.
"""

import logging
import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from laperm_lib.errors import LaPermError
from laperm_lib.paper._extras import extra

if TYPE_CHECKING:
    from laperm_lib.paper.benchmark import Report
    from laperm_lib.paper.runs import Task

_log = logging.getLogger(__name__)

_SECONDS_WITHOUT_WORKERS = 600  # on a cluster of the user's, which may be starting machines

_asked_to_stop: set[str] = set()  # the sweeps that are; in a worker


def sweep(
    tasks: "Sequence[Task]",
    root: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int = 1,
    data_dir: str | None = None,
    every_seconds: float = 60,
    stop: Callable[[], bool] = lambda: False,
) -> "Report":
    """Run tasks on Dask's workers, each in its run folder.

    Args:
        tasks: the trainings, as `benchmark.tasks` makes them.
        root: where all run folders are; every worker must see it under this name.
        scheduler: the address of a Dask scheduler, such as "tcp://10.0.0.1:8786". Default: a
            cluster on this machine, for this call.
        workers: how many processes that cluster has, at least 1. Default 1.
        data_dir: where the datasets lie, seen from the workers. Default: as `datasets.load`.
        every_seconds: the time between two checkpoints of a run. Default 60.
        stop: asked every second; when it says yes, the workers write checkpoints and stop.
            Default: never.

    Returns:
        The records, what is left, because it was stopped or another process trains it, and what
        failed. One failure does not stop the others; all fail that no worker is left for, after a
        minute without any on this machine, 10 minutes on another cluster.

    Raises:
        LaPermError: if the scheduler does not answer, or no worker starts.
        ImportError: if Dask is not installed.
        ValueError: if `workers` is below 1.

    Examples:
        >>> from laperm_lib.paper.benchmark import tasks
        >>> report = sweep(tasks("conv7_k"), "runs", workers=4)  # doctest: +SKIP
    """
    if workers < 1:
        raise ValueError(f"workers is at least 1, got {workers}.")
    with extra("cluster"):
        import distributed
    from laperm_lib.paper import benchmark

    folder, failed = os.path.abspath(root), {}
    name = uuid.uuid4().hex  # another sweep of these tasks is not to share their fate
    named = {f"laperm-{name}-{task.name}": task.name for task in tasks}
    with _client(scheduler, workers) as (client, patience):
        pending = set(
            client.map(
                _run,
                [pickle.dumps(task) for task in tasks],
                sweep=name,
                root=folder,
                data_dir=data_dir,
                every_seconds=every_seconds,
                key=list(named),
                pure=False,
            )
        )
        why, seen = "no worker of Dask's is left; the same command resumes it.", time.monotonic()
        try:
            while pending and time.monotonic() - seen < patience:
                if stop():
                    client.run(_ask_to_stop, name, on_error="ignore")
                with suppress(TimeoutError):
                    done, pending = distributed.wait(pending, 1, return_when="FIRST_COMPLETED")
                    for future in done:
                        error = future.exception()
                        if isinstance(error, distributed.KilledWorker):
                            error = "its workers were killed again and again: too little memory?"
                        if error is not None:
                            failed[named[future.key]] = str(error)
                        _log.info("%s has ended; %d are left.", named[future.key], len(pending))
                if client.nthreads():
                    seen = time.monotonic()
        except (CancelledError, OSError):
            why = "Dask's scheduler is gone; the same command resumes it."
        failed |= {named[future.key]: why for future in pending}
    return benchmark.report(tasks, folder, failed)


def _run(task: bytes, *, sweep: str, **how: Any) -> None:
    """What a worker does; the record is in the folder, and an error goes as text."""
    if sweep in _asked_to_stop:
        return
    from laperm_lib.paper import benchmark

    how["stop"] = lambda: sweep in _asked_to_stop
    for error in benchmark.run_each([pickle.loads(task)], **how).failed.values():
        raise LaPermError(error)


def _ask_to_stop(sweep: str) -> None:
    _asked_to_stop.add(sweep)


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[tuple[Any, float]]:
    """A client of a cluster, and the seconds that this may be without workers."""
    import dask
    import distributed

    from laperm_lib.paper import _local_cluster

    patience = _local_cluster.START_SECONDS if scheduler is None else _SECONDS_WITHOUT_WORKERS
    # Dask gives up a worker that was killed if none has taken its place after so long.
    timeouts = dask.config.set({"distributed.deploy.lost-worker-timeout": patience})
    with timeouts, ExitStack() as stack:
        for logger in map(logging.getLogger, ("distributed", "distributed.client")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # pages of Dask's own for each worker that is lost
        try:
            if cluster := None if scheduler else _local_cluster.start(workers):
                stack.callback(_close, cluster)
            client = distributed.Client(cluster or scheduler, timeout=10)
        except Exception as error:  # of many types, where workers die while they start
            what = "Dask's workers do not start on this machine"
            what = f"No Dask scheduler answers at {scheduler}" if scheduler else what
            raise LaPermError(f"{what}: {type(error).__name__}: {error}") from None
        stack.callback(_close, client)
        yield client, patience


def _close(server: Any) -> None:
    with suppress(OSError):  # it takes too long
        server.close(timeout=20)
