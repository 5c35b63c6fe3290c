"""Many trainings on one machine or a cluster, by Dask, over the same run folders.

Workers share nothing but a file system: a task is a run folder, and everything about it is in
there. Dask starts a task that has lost its worker on another, which takes the training up from its
latest checkpoint; a finished run is not run again.
"""

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from laperm_lib.errors import LaPermError
from laperm_lib.paper.experiments.folders import RunFolder, Task
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.profiles import PROFILES
from laperm_lib.paper.experiments.records import Record

_log = logging.getLogger(__name__)


def grid(
    experiment: str,
    *,
    seeds: Sequence[int] = (0,),
    profile: str = "paper",
    evaluate_after: Sequence[int] = (0,),
    **values: Sequence[Any],
) -> list[Task]:
    """All combinations of seeds and of values for some hyperparameters.

    Args:
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        seeds: the seeds. Default: 0 alone.
        profile: what to start from: "paper" (the default), the published settings, or "short" or
            "quick", as `laperm_lib.paper.experiments.profiles.PROFILES` has them.
        evaluate_after: as for `laperm_lib.paper.experiments.run`. Default: 0 alone.
        **values: for a field of `Hyperparameters`, the values to try.

    Returns:
        The tasks, those of one setting together.

    Raises:
        ValueError: if the experiment, the profile, a field or a value is not possible, one comes
            twice, or there is no list of them.

    Examples:
        >>> [task.name[:11] for task in grid("conv7", seeds=[0, 1], sync_period=[20, 1200])]
        ['conv7-seed0', 'conv7-seed1', 'conv7-seed0', 'conv7-seed1']
    """
    unknown = values.keys() - {field.name for field in fields(Hyperparameters)}
    if unknown:
        raise ValueError(f"There is no hyperparameter {', '.join(sorted(unknown))}.")
    if profile not in PROFILES:
        raise ValueError(f"Unknown profile {profile!r}; there are {', '.join(PROFILES)}.")
    for name, given in {"seeds": seeds, **values}.items():
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{name} is a list of values to try, got {given!r}.")
    start = PROFILES[profile](experiment)
    settings = [
        replace(start, **dict(zip(values, combination, strict=True)))
        for combination in itertools.product(*values.values())
    ]
    tasks = [
        Task(experiment, each, seed, tuple(evaluate_after)) for each in settings for seed in seeds
    ]
    _check_all_differ(tasks)
    return tasks


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
        tasks: the trainings; see `grid`.
        root: where all run folders are; every worker must see it under this name.
        scheduler: the address of a Dask scheduler, such as "tcp://10.0.0.1:8786". Default: a
            cluster on this machine, for this call.
        workers: how many processes that cluster has, at least 1. Default 1.
        data_dir: where the datasets lie, seen from the workers. Default: as
            `laperm_lib.paper.datasets.load`.
        every_seconds: the time between two checkpoints of a run, in seconds. Default 60.

    Returns:
        For the name of each task its record, or what went wrong, as text. One failure does not
        stop the others.

    Raises:
        LaPermError: if Dask is not installed, or the scheduler does not answer.
        ValueError: if `workers` is below 1, or two tasks have one name.
    """
    if workers < 1:
        raise ValueError(f"workers is at least 1, got {workers}.")
    _check_all_differ(tasks)
    names = [task.name for task in tasks]
    try:
        import distributed
    except ImportError:
        raise LaPermError(
            'Sweeps need Dask: pip install "laperm-lib[cluster]" (or: pip install distributed).'
        ) from None
    folder = os.path.abspath(root)
    results: dict[str, Record | str] = {}
    with _client(distributed, scheduler, workers) as client:
        futures = client.map(
            _run, list(tasks), root=folder, data_dir=data_dir, every_seconds=every_seconds,
            key=[f"laperm-{name}" for name in names], pure=False,
        )  # fmt: skip
        name_of = dict(zip((future.key for future in futures), tasks, strict=True))
        for future in distributed.as_completed(futures):
            task = name_of[future.key]
            error = future.exception()
            if error is not None:
                results[task.name] = f"{type(error).__name__}: {error}"
                _log.error("%s: %s", task.name, results[task.name])
            else:
                results[task.name] = RunFolder(folder, task).record()
                _log.info("%s is finished (%d of %d).", task.name, len(results), len(tasks))
    return {name: results[name] for name in names}


def _check_all_differ(tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"Two tasks are the same training, {name}: is a value given twice?")


def _run(task: Task, *, root: str, data_dir: str | None, every_seconds: float) -> None:
    """What a worker does; the record is in the folder."""
    RunFolder(root, task).run(data_dir=data_dir, every_seconds=every_seconds)


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
