"""Several trainings of one network as a single device program, each in its run folder.

What `laperm_lib.experiments.folders.RunFolder.run` does with Keras's `fit` for one training, this
does with `laperm_lib.device_program.DeviceProgram` for several that differ in seed, pruning or sync
period. It needs JAX, and pays on an accelerator.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

import keras

from laperm_lib.device_program import DeviceProgram
from laperm_lib.errors import WeightFileError
from laperm_lib.experiments.environment import joined
from laperm_lib.experiments.evaluation import Evaluation
from laperm_lib.experiments.folders import RunFolder, Task
from laperm_lib.experiments.records import Record
from laperm_lib.experiments.stopping import StopCheck, Stopped, never
from laperm_lib.experiments.training import Start, start
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.training_state import restore, state_of

_log = logging.getLogger(__name__)

# Between two looks at the clock: about so long, and no more than so many steps.
_SECONDS, _MOST_STEPS = 2.0, 1000


def groups(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks that can be trained side by side, together.

    Args:
        tasks: the trainings.

    Returns:
        Groups whose settings differ in sync period and pruning alone, in the order of their first
        tasks.

    Examples:
        >>> from laperm_lib.experiments.sweeps import grid
        >>> found = groups([*grid("resnet50_30", seeds=(0, 1)), *grid("resnet50_50"), *grid("f1")])
        >>> [[task.experiment for task in group] for group in found]
        [['resnet50_30', 'resnet50_30', 'resnet50_50'], ['f1']]
    """
    by_likeness: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        permuting = task.settings.sync_period is not None
        alike = replace(task.settings, sync_period=None, pruned=0.0)
        by_likeness.setdefault((permuting, alike), []).append(task)
    return list(by_likeness.values())


def run_side_by_side(
    tasks: Sequence[Task],
    root: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    every_seconds: float = 60,
    stop: StopCheck = never,
    verbose: int = 0,
) -> list[Record]:
    """Train what is missing of some runs side by side, or go on from where they were cut.

    Runs that were cut at different steps go on in programs of their own, one after the other.

    Args:
        tasks: trainings of one group; see `groups`.
        root: where all run folders are.
        data_dir: where the dataset lies. Default: as `laperm_lib.datasets.load`.
        every_seconds: the time between two checkpoints, in seconds. Default 60.
        stop: asked between blocks of steps; when it says yes, each run gets a checkpoint and
            training stops. Default: never.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The records, in the order of the tasks. Their seconds are those of all runs together.

    Raises:
        ValueError: if the tasks are not of one group, or the backend is not JAX.
        BusyError: if another process is at one of them.
        DatasetUnavailableError: if the data cannot be had.
        Stopped: if `stop` said so.
    """
    if len(groups(tasks)) > 1:
        raise ValueError("Runs side by side differ in seed, sync period and pruning only.")
    check_backend()
    folders = [RunFolder(root, task) for task in tasks]
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(folder.lock())
        missing = [folder for folder in folders if not folder.is_finished]
        for step, together in _at_one_step(missing):
            _train(together, step, data_dir, every_seconds, stop, verbose)
    return [folder.record() for folder in folders]


def check_backend() -> None:
    """Refuse, before anything is made, where there can be no device program.

    Raises:
        ValueError: if the backend is not JAX.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Runs side by side need JAX: set KERAS_BACKEND=jax (it is {keras.backend.backend()})."
        )


def _train(
    folders: Sequence[RunFolder],
    step: int,
    data_dir: str | None,
    every_seconds: float,
    stop: StopCheck,
    verbose: int,
) -> None:
    starts: list[Start] = []
    for folder in folders:
        begun = start(
            folder.task.settings,
            seed=folder.task.seed,
            data_dir=data_dir,
            evaluate_after=folder.task.evaluate_after,
            # All runs of a group have the same images; a dataset is held once, not once a run.
            images=starts[0].images if starts else None,
        )
        starts.append(begun)
    evaluations, seconds, environments = _take_up(folders, starts, step)
    images, settings = starts[0].images, starts[0].settings
    program = DeviceProgram(
        [begun.model for begun in starts],
        images.x_train,
        images.y_train,
        batch_size=settings.batch_size,
        seeds=[begun.seed for begun in starts],
        augmentation=settings.augmentation,
        first_step=step,
    )
    since = time.perf_counter() - seconds
    saved = time.monotonic()
    total = settings.epochs * program.steps_per_epoch
    bar = keras.utils.Progbar(total) if verbose else None
    ends = sorted({total, *(end for begun in starts for end in begun.evaluation_steps)})
    at_once = 1  # the first call compiles, and says nothing of how fast steps are
    for end in (end for end in ends if end > step):
        while program.step < end:
            steps, called = min(at_once, end - program.step), time.perf_counter()
            losses = program.advance(steps)
            per_step = (time.perf_counter() - called) / steps
            at_once = max(1, min(_MOST_STEPS, int(_SECONDS / per_step)))
            if bar is not None:
                bar.update(program.step, [("loss", losses.mean())])
            if program.step == end:
                _evaluate(program, starts, evaluations)
            stopping = stop()
            if stopping or time.monotonic() - saved >= every_seconds:
                seconds = time.perf_counter() - since
                _save(program, folders, starts, evaluations, seconds, environments)
                saved = time.monotonic()
            if stopping:
                raise Stopped
    program.write_back()
    for folder, begun, made, where in zip(folders, starts, evaluations, environments, strict=True):
        if isinstance(begun.model.optimizer, LaPerm):
            begun.model.optimizer.synchronise()
        record = folder.keep(begun.outcome(made, time.perf_counter() - since, where))
        _log.info("%s: final test accuracy %.4f", folder.path.name, record.final)


def _at_one_step(folders: Iterable[RunFolder]) -> list[tuple[int, list[RunFolder]]]:
    """Runs together that can go on from one step, and which: the latest that they have in common.

    A cut between the checkpoints of two runs leaves one of them a checkpoint ahead; it still has
    the one before.
    """
    found: list[tuple[set[int], list[RunFolder]]] = []
    for folder in folders:
        steps = set(_readable_steps(folder)) or {0}
        for place, (common, together) in enumerate(found):
            if common & steps:
                found[place] = (common & steps, [*together, folder])
                break
        else:
            found.append((steps, [folder]))
    return [(max(common), together) for common, together in found]


def _readable_steps(folder: RunFolder) -> Iterator[int]:
    for step in folder.checkpoints.steps():
        try:
            folder.checkpoints.at(step)
        except WeightFileError as error:
            _log.warning("%s It is not used.", error)
        else:
            yield step


def _take_up(
    folders: Sequence[RunFolder], starts: Sequence[Start], step: int
) -> tuple[list[list[Evaluation]], float, list[dict[str, str]]]:
    """Evaluations, seconds and environments to go on from, with the models brought to a step."""
    environments = [begun.environment | {"side_by_side": str(len(starts))} for begun in starts]
    if step == 0:
        return [[] for _ in folders], 0.0, environments
    evaluations = []
    seconds = 0.0
    for number, (folder, begun) in enumerate(zip(folders, starts, strict=True)):
        checkpoint = folder.checkpoints.at(step)
        restore(begun.model, checkpoint.arrays)
        evaluations.append([Evaluation(**entry) for entry in checkpoint.notes["evaluations"]])
        seconds = max(seconds, checkpoint.notes["seconds"])
        environments[number] = joined(checkpoint.notes["environment"], environments[number])
    _log.info("%d runs side by side go on after step %d", len(folders), step)
    return evaluations, seconds, environments


def _evaluate(
    program: DeviceProgram, starts: Sequence[Start], evaluations: Sequence[list[Evaluation]]
) -> None:
    """Measure all runs, and keep it for those whose turn it is."""
    if not any(program.step in begun.evaluation_steps for begun in starts):
        return
    images = starts[0].images
    test = program.accuracy(images.x_test, images.y_test)
    held_out = None
    if len(images.x_held_out):
        held_out = program.accuracy(images.x_held_out, images.y_held_out)
    for run, (begun, made) in enumerate(zip(starts, evaluations, strict=True)):
        if program.step in begun.evaluation_steps:
            made.append(
                Evaluation(
                    program.step,
                    begun.evaluation_steps[program.step],
                    float(test[run]),
                    None if held_out is None else float(held_out[run]),
                )
            )


def _save(
    program: DeviceProgram,
    folders: Sequence[RunFolder],
    starts: Sequence[Start],
    evaluations: Sequence[list[Evaluation]],
    seconds: float,
    environments: Sequence[dict[str, str]],
) -> None:
    program.write_back()
    for folder, begun, made, where in zip(folders, starts, evaluations, environments, strict=True):
        notes = {
            "evaluations": [asdict(entry) for entry in made],
            "seconds": seconds,
            "environment": where,
        }
        try:
            folder.checkpoints.save(program.step, state_of(begun.model), notes)
        except OSError as error:
            _log.warning("%s: no checkpoint, training goes on: %s", folder.path.name, error)
