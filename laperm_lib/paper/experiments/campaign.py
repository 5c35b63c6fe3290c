"""All that is missing of a plan, cheapest first, within a time limit, and again from where it was.

A campaign needs no memory of its own: what is finished and what was cut it reads from the run
folders. So it can be stopped at any moment and started again, and several can work on one set of
folders at once.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from laperm_lib.errors import BusyError
from laperm_lib.paper.experiments.catalogue import same_training, seconds, steps, variant
from laperm_lib.paper.experiments.folders import RunFolder, Task
from laperm_lib.paper.experiments.records import Record
from laperm_lib.paper.experiments.results import State, states
from laperm_lib.paper.experiments.stopping import StopCheck, Stopped, never

_log = logging.getLogger(__name__)


def missing(planned: Iterable[Task], found: Iterable[State]) -> list[State]:
    """What is left to be done of a plan, cheapest first.

    A training counts as done if one that differs in precision or evaluations alone is finished; if
    such a one was cut, it is the one that is gone on with.

    Args:
        planned: the trainings that are wanted.
        found: those that have been begun; see `laperm_lib.paper.experiments.results.states`.

    Returns:
        The trainings that are not finished, by the time that they still take.
    """
    begun: dict[object, State] = {}
    for state in found:
        known = begun.get(same_training(state.task))
        if known is None or state.seconds_left < known.seconds_left:
            begun[same_training(state.task)] = state
    wanted = {same_training(task): State(task, 0, None, folder=False) for task in planned}
    left = [begun.get(training, state) for training, state in wanted.items()]
    return sorted((s for s in left if s.record is None), key=lambda state: state.seconds_left)


@dataclass(frozen=True)
class Standing:
    """How far the runs of one experiment with one variant of its settings are.

    Args:
        experiment: its name.
        variant: the settings, in words.
        steps: training steps of each run.
        seconds: about how long each takes on 2 cores.
        wanted: how many the plan has.
        finished: those that are finished, by seed.
        begun: those that were cut or are being trained, by seed.
    """

    experiment: str
    variant: str
    steps: int
    seconds: float
    wanted: int
    finished: tuple[State, ...]
    begun: tuple[State, ...]


def overview(planned: Iterable[Task], found: Iterable[State]) -> list[Standing]:
    """How far everything is that a plan wants, and everything else that has been begun.

    Args:
        planned: the trainings that are wanted.
        found: as for `missing`; what counts as done is the same.
    """
    wanted = {same_training(task): task for task in planned}
    tasks: dict[tuple[str, str], list[Task]] = {}
    of_group: dict[tuple[str, str], list[State]] = {}
    for task in wanted.values():
        tasks.setdefault(_group(task), []).append(task)
    for state in found:
        task = wanted.get(same_training(state.task), state.task)
        tasks.setdefault(_group(task), [])
        of_group.setdefault(_group(task), []).append(state)
    standings = []
    for group, members in tasks.items():
        own = sorted(of_group.get(group, []), key=lambda state: state.task.seed)
        settings = (members or [state.task for state in own])[0].settings
        standings.append(
            Standing(
                *group,
                steps=steps(settings),
                seconds=seconds(settings),
                wanted=len(members),
                finished=tuple(state for state in own if state.record is not None),
                begun=tuple(state for state in own if state.record is None),
            )
        )
    return standings


def _group(task: Task) -> tuple[str, str]:
    return task.experiment, str(variant(task.experiment, task.settings))


@dataclass(frozen=True)
class Report:
    """What a campaign has done.

    Args:
        finished: the records of the runs that it has finished.
        left: what is still to be done, cheapest first.
        failed: for the name of each run that failed, what went wrong.
    """

    finished: tuple[Record, ...]
    left: tuple[State, ...]
    failed: dict[str, str]


def run_missing(
    planned: Sequence[Task],
    root: str | os.PathLike[str],
    *,
    pretrained: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    every_seconds: float = 60,
    stop: StopCheck = never,
    verbose: int = 0,
) -> Report:
    """Train what is missing of a plan, cheapest first, and go on with what was cut.

    One failing run does not stop the others. A run that another process is at is left to it, with
    those side by side with it.

    Args:
        planned: the trainings that are wanted.
        root: where all run folders are.
        pretrained: as for `laperm_lib.paper.experiments.results.states`.
        data_dir: where the datasets lie. Default: as `laperm_lib.paper.datasets.load`.
        every_seconds: the time between two checkpoints, in seconds. Default 60.
        stop: asked after steps and between runs; when it says yes, the run of that moment gets a
            checkpoint, and no other is begun. Default: never.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The `Report`.

    Raises:
        LaPermError: if a run folder cannot be read.
        ValueError: if runs are to go side by side on another backend than JAX.
    """
    finished: list[Record] = []
    failed: dict[str, str] = {}
    todo = missing(planned, states(root, pretrained))
    tasks = [state.task for state in todo]
    how: dict[str, Any] = {
        "data_dir": data_dir,
        "every_seconds": every_seconds,
        "stop": stop,
        "verbose": verbose,
    }
    for task in tasks:
        if stop():
            break
        _log.info("%s: about %.2f h on 2 cores", task.name, seconds(task.settings) / 3600)
        try:
            finished.append(RunFolder(root, task).run(**how))
        except Stopped:
            break
        except BusyError as error:
            _log.info("%s", error)
        except Exception as error:  # backends have errors of their own, for too little memory say
            _log.error("%s: %s", task.name, error)
            failed[task.name] = str(error)
    left = missing(planned, states(root, pretrained))
    return Report(tuple(finished), tuple(left), failed)
