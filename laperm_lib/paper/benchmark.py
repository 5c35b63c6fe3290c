"""The paper's benchmark: the rows of its results table, its sweeps, their cost, what is missing.

References:
    Qiu and Suda, NeurIPS 2020, sections 5.1 to 5.5.
"""

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from laperm_lib._arguments import check_name
from laperm_lib.errors import BusyError, LaPermError, in_short
from laperm_lib.paper._extras import extra
from laperm_lib.paper.records import Record
from laperm_lib.paper.runs import RunFolder, State, Task, states
from laperm_lib.paper.settings import EXPERIMENTS, PROFILES, TRAINING_IMAGES, Settings
from laperm_lib.paper.training import StopCheck, Stopped, never

with extra("paper"):
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A row of the paper's results table: pruned in percent, accuracy from 0 to 1."""

    experiment: str
    section: str
    pruned: int
    sync_period: int
    accuracy: float
    seeds: int = 3

    @property
    def baseline(self) -> str:
        """The experiment that trains the same network by Adam alone."""
        return f"{self.experiment}_adam"


ROWS = (
    Row("conv7", "5.1", 0, 1200, 0.9972),
    Row("conv2", "5.2, 5.4", 0, 1000, 0.7821),
    Row("conv4", "5.2, 5.4", 0, 1000, 0.8917),
    Row("conv13", "5.2, 5.4", 0, 1000, 0.9221),
    Row("resnet50", "5.4", 0, 400, 0.9253),
    Row("resnet50_30", "5.4", 30, 800, 0.9232),
    Row("resnet50_50", "5.4", 50, 800, 0.9202),
    Row("resnet50_70", "5.4", 70, 800, 0.9097),
    Row("f1", "5.5", 40, 250, 0.8546, seeds=10),
    Row("f2", "5.5", 92, 250, 0.7814, seeds=10),
)
"""The results table, with the paper's numbers."""


@dataclass(frozen=True)
class Sweep:
    """One setting of an experiment at several values."""

    experiment: str
    setting: str
    values: tuple[Any, ...]


SWEEPS = {
    "conv7_k": Sweep("conv7", "sync_period", (20, 100, 400, 1200)),
    "conv7_batch": Sweep("conv7", "batch_size", (50, 250)),
    "conv2_k": Sweep("conv2", "sync_period", (100, 1000, 4000)),
    "conv2_p": Sweep("conv2", "pruned", tuple(percent / 100 for percent in range(0, 100, 10))),
    "conv2_initial": Sweep("conv2", "initializer", ("he_uniform", "he_normal", "glorot_uniform")),
    "conv2_pixels": Sweep("conv2", "pixels", ("raw", "standardised")),
}
"""The paper's sweeps, by name; all else is as published. `conv2_pixels` is not of the paper: its
notebook computes standardised pixels and trains on raw ones; the sweep tells what that costs."""

HELD_OUT = {"mnist": 5000, "cifar10": 5000, "digits": 200}
"""How many training images the planned runs hold out, to choose a network by."""

MILLISECONDS_PER_IMAGE = {
    "conv2": 2.1,
    "conv4": 3.1,
    "conv7": 0.56,
    "conv13": 12.8,
    "resnet50": 5.0,
    "conv6_32": 0.9,
    "conv6_64": 1.4,
    "conv6_64_relu": 1.3,
    "conv6_64_silu": 1.3,
    "conv6_mnist": 0.52,
    "f1": 0.005,
    "f2": 0.014,
    "mlp": 0.07,
}
"""What training by one image takes on 2 cores, float32 on TensorFlow, in batches as published.
Measured by `benchmarks/test_training_cost.py`; evaluations are not counted, and other machines
differ by half."""

_MOST_TASKS = 10_000
# What may differ between runs of one row: how they are computed and measured.
_BESIDE = {"precision", "held_out", "evaluate_every"}


def names() -> tuple[str, ...]:
    """The names of all experiments and sweeps."""
    return (*EXPERIMENTS, *SWEEPS)


def row(experiment: str) -> Row | None:
    """The row of an experiment in the paper's table, if it has one."""
    return next((each for each in ROWS if each.experiment == experiment), None)


def tasks(
    name: str,
    *,
    seeds: Iterable[int] = (0,),
    profile: str = "paper",
    evaluate_after: Sequence[int] = (0,),
    **values: Sequence[Any],
) -> list[Task]:
    """The trainings of an experiment or a sweep: all combinations of seeds and values.

    Args:
        name: of an experiment or a sweep.
        seeds: the seeds. Default: 0 alone.
        profile: "paper" (the default), "short" or "quick".
        evaluate_after: as for `training.run`.
        **values: lists of values for settings by name; one for a sweep's own setting replaces its.

    Raises:
        ValueError: for an unknown name, profile or setting, or a training that is listed twice.

    Examples:
        >>> [task.name for task in tasks("f1", sync_period=[250, 500])]
        ['f1-seed0', 'f1-seed0-e0c442d0']
    """
    if name in SWEEPS:
        sweep = SWEEPS[name]
        name, values = sweep.experiment, {sweep.setting: sweep.values, **values}
    check_name("profile", profile, PROFILES)
    for setting, given in {"seeds": seeds, **values}.items():
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{setting} is a list of values to try, got {given!r}.")
    start = PROFILES[profile](name)
    found: dict[str, Task] = {}
    for combination in itertools.product(*values.values()):
        settings = start.replace(**dict(zip(values, combination, strict=True)))
        for seed in seeds:
            task = Task(name, settings, seed, tuple(evaluate_after))
            if task.name in found:
                raise ValueError(
                    f"Two tasks are the same training, {task.name}: is a value given twice?"
                )
            found[task.name] = task
            if len(found) > _MOST_TASKS:
                raise ValueError(f"These are more than {_MOST_TASKS} trainings of {name}.")
    return list(found.values())


def plan(
    profile: str = "paper", *, seeds: int | None = None, **values: Sequence[Any]
) -> list[Task]:
    """The trainings that make the whole table: rows, their Adam baselines, and the sweeps.

    Args:
        profile: as for `tasks`.
        seeds: how many of each. Default: 3 (f1 and f2: 10), and 1 of the sweeps.
        **values: as for `tasks`. Where no `held_out` is given, it is as `HELD_OUT` says.

    Examples:
        >>> len(plan())
        106
    """
    wanted = [(each.experiment, each.seeds) for each in ROWS]
    wanted += [(each.baseline, each.seeds) for each in ROWS]
    wanted += [(name, 1) for name in SWEEPS]
    found: dict[str, Task] = {}
    for name, count in wanted:
        numbers = range(count if seeds is None else seeds)
        for task in tasks(name, seeds=numbers, profile=profile, **values):
            if "held_out" not in values:
                held_out = HELD_OUT[task.settings.data.dataset]
                task = replace(task, settings=task.settings.replace(held_out=held_out))
            found.setdefault(task.name, task)
    return list(found.values())


def steps(settings: Settings) -> int:
    """How many steps a training has: 54,000 that of conv7."""
    images = TRAINING_IMAGES[settings.data.dataset] - settings.data.held_out
    return settings.schedule.epochs * -(-images // settings.schedule.batch_size)


def seconds(settings: Settings) -> float:
    """About how long a training takes on 2 cores in float32, without its evaluations."""
    each = MILLISECONDS_PER_IMAGE[settings.values()["model"]] / 1000
    return steps(settings) * settings.schedule.batch_size * each


def seconds_left(state: State) -> float:
    """About how long the rest of a training takes, as `seconds` has it."""
    if state.record is not None:
        return 0.0
    return seconds(state.task.settings) * (1 - state.step / steps(state.task.settings))


@dataclass(frozen=True)
class Variant:
    """The profile that settings are nearest to, and name and value of what differs from it."""

    profile: str
    differing: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return ", ".join([self.profile, *(f"{name}={value}" for name, value in self.differing)])

    @property
    def is_as_published(self) -> bool:
        """Whether it trains the table's row, in full or shortened.

        Precision, the images held out and the steps of evaluations may be others.
        """
        return self.profile != "quick" and _BESIDE.issuperset(name for name, _ in self.differing)

    def without(self, *settings: str | None) -> "Variant":
        """The same, whatever some settings are."""
        return Variant(self.profile, tuple(p for p in self.differing if p[0] not in settings))


def variant(experiment: str, settings: Settings) -> Variant:
    """Name the settings of a run by their difference from a profile.

    >>> str(variant("conv2", PROFILES["short"]("conv2").replace(sync_period=100)))
    'short, sync_period=100'
    """
    found = [
        Variant(profile, tuple(settings.differing(PROFILES[profile](experiment)).items()))
        for profile in ("paper", "short", "quick")
    ]
    return min(found, key=lambda each: len(each.differing))


def same_training(task: Task) -> tuple[str, int, Settings]:
    """Equal for two tasks of which only one need be run: all but precision and evaluations."""
    return task.experiment, task.seed, task.settings.replace(precision="float32", evaluate_every=1)


def missing(planned: Iterable[Task], found: Iterable[State]) -> list[State]:
    """What is left to be done of a plan, cheapest first; runs begun in any precision count."""
    begun: dict[object, State] = {}
    for state in found:
        known = begun.get(same_training(state.task))
        if known is None or seconds_left(state) < seconds_left(known):
            begun[same_training(state.task)] = state
    wanted = {same_training(task): State(task, 0, None) for task in planned}
    left = [begun.get(training, state) for training, state in wanted.items()]
    return sorted((state for state in left if state.record is None), key=seconds_left)


@dataclass(frozen=True)
class Report:
    """What became of trainings: records, what is left, and what failed, and why, by name.

    Left is what was stopped, or another process is training.
    """

    finished: tuple[Record, ...]
    left: tuple[State, ...]
    failed: dict[str, str]


def report(
    planned: Iterable[Task], root: str | os.PathLike[str], failed: Mapping[str, str]
) -> Report:
    """How far these trainings are, whichever process has done them."""
    finished, left, failed = [], [], dict(failed)
    for task in planned:
        if task.name in failed:
            continue
        try:
            state = RunFolder(root, task).state()
        except (ValueError, OSError) as error:
            failed[task.name] = str(error)
        else:
            if state.record is None:
                left.append(state)
            else:
                finished.append(state.record)
    return Report(tuple(finished), tuple(left), failed)


def run_each(
    planned: Iterable[Task],
    root: str | os.PathLike[str],
    *,
    stop: StopCheck = never,
    began: float | None = None,
    **how: Any,
) -> Report:
    """Train one after the other; what fails, or is trained elsewhere, does not stop the others.

    Args:
        planned: the trainings.
        root: where all run folders are.
        stop: asked after steps and between trainings; when it says yes, this ends.
        began: from when the seconds of the first are counted. Default: now.
        **how: as for `RunFolder.run`.
    """
    planned, failed = tuple(planned), {}
    for task in planned:
        if stop():
            break
        try:
            RunFolder(root, task).run(stop=stop, began=began, **how)
        except Stopped:
            break
        except BusyError as error:
            _log.info("%s", error)
        except Exception as error:  # backends have errors of their own, for too little memory say
            failed[task.name] = _why(error)
        began = None
    return report(planned, root, failed)


def _why(error: Exception) -> str:
    """The message of an error, with its type where that is not a common one."""
    known = isinstance(error, (ValueError, OSError, ImportError))
    return str(error) if known else f"{type(error).__name__}: {in_short(error)}"


def run_missing(
    planned: Sequence[Task],
    root: str | os.PathLike[str],
    *,
    shipped: str | os.PathLike[str] | None = None,
    **how: Any,
) -> Report:
    """Train what is missing of a plan, cheapest first, and resume what was interrupted.

    Args:
        planned: the trainings.
        root: where all run folders are.
        shipped: a folder with records of runs that need not be done again. Default: none.
        **how: as for `run_each`.

    Examples:
        >>> import tempfile
        >>> planned = tasks("f1", profile="quick", seeds=(0, 1), epochs=[2])
        >>> with tempfile.TemporaryDirectory() as root:
        ...     report = run_missing(planned, root)
        >>> len(report.finished), report.left, report.failed
        (2, (), {})
    """
    found = states(root, shipped)
    for task in (state.task for state in found if state.record is not None):
        with suppress(LaPermError, OSError):  # at work, or not to be read or written
            folder = RunFolder(root, task)
            if folder.is_finished:
                folder.clean()
    left = missing(planned, found)
    hours = sum(map(seconds_left, left)) / 3600
    _log.info("%d trainings are missing, about %.2f h on 2 cores", len(left), hours)
    return run_each([state.task for state in left], root, **how)


def overview(planned: Iterable[Task], found: Iterable[State]) -> pd.DataFrame:
    """How far all is that a plan wants or that has been begun: a row for each variant of settings.

    Columns: steps, hours on 2 cores, how many seeds are finished of those wanted, and which are
    begun, with percent of their steps.
    """
    groups: dict[tuple[str, str], tuple[list[Task], list[State]]] = {}

    def group(task: Task) -> tuple[list[Task], list[State]]:
        name = task.experiment, str(variant(task.experiment, task.settings))
        return groups.setdefault(name, ([], []))

    wanted = {same_training(task): task for task in planned}
    for task in wanted.values():
        group(task)[0].append(task)
    for state in found:
        group(wanted.get(same_training(state.task), state.task))[1].append(state)
    rows = []
    for (experiment, settings), (members, own) in groups.items():
        own.sort(key=lambda state: state.task.seed)
        one = (members or [state.task for state in own])[0].settings
        finished = sum(state.record is not None for state in own)
        begun = [f"{s.task.seed} ({100 * s.step // steps(one)} %)" for s in own if not s.record]
        rows.append(
            {
                "experiment": experiment,
                "settings": settings,
                "steps": steps(one),
                "2 cores, h": f"{seconds(one) / 3600:.2f}",
                "finished": f"{finished} of {len(members)}" if members else str(finished),
                "begun": ", ".join(begun),
            }
        )
    return pd.DataFrame(rows)
