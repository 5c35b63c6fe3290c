"""What the paper has measured: the rows of its results table, its sweeps, and what they cost here.

References:
    Qiu and Suda, NeurIPS 2020, sections 5.1 to 5.5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from laperm_lib.paper.experiments.folders import Task
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.profiles import PROFILES, PUBLISHED
from laperm_lib.paper.experiments.sweeps import grid


@dataclass(frozen=True)
class Row:
    """A row of the paper's results table.

    Args:
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        section: where the paper has it.
        pruned: p, the share of the weights that were pruned, in percent as the paper gives it.
        sync_period: k, in steps.
        accuracy: the published top-1 accuracy on the test images, 0 to 1.
        seeds: how many seeds it is trained with here.
    """

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
    """One hyperparameter of an experiment at several values.

    Args:
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        setting: a field of `Hyperparameters`.
        values: its values.
    """

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
"""The paper's sweeps, by name. They vary sync period and batch size of conv7, and sync period,
pruned share and initial weights of conv2. All else is as published, k too for larger batches.
`conv2_pixels` is not of the paper: its notebook computes standardised pixels and trains on raw
ones, and the sweep tells what that costs."""

HELD_OUT = {"mnist": 5000, "cifar10": 5000, "digits": 200}
"""How many training images the planned runs hold out, to choose a network by them."""

MILLISECONDS_PER_IMAGE = {
    "conv2": 2.1,
    "conv4": 3.1,
    "conv7": 0.56,
    "conv13": 12.8,
    "resnet50": 5.0,
    "f1": 0.005,
    "f2": 0.014,
}
"""What training by one image takes on 2 cores, float32 on TensorFlow, in batches as published.
Measured by `benchmarks/test_training_cost.py`, as `benchmarks/results.md` has it and the machine;
evaluations are not counted, and other machines differ by half. Not known for accelerators."""

# What may differ between runs of one row: how they are computed and measured.
_BESIDE = {"precision", "held_out", "evaluate_every"}
_TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000, "digits": 1437}


def names() -> tuple[str, ...]:
    """The names of all experiments and sweeps."""
    return (*PUBLISHED, *SWEEPS)


def row(experiment: str) -> Row | None:
    """The row of an experiment in the paper's table, if it has one.

    Examples:
        >>> row("conv2").accuracy, row("conv2_adam")
        (0.7821, None)
    """
    return next((each for each in ROWS if each.experiment == experiment), None)


def tasks(
    name: str, *, seeds: Sequence[int] = (0,), profile: str = "paper", **values: Sequence[Any]
) -> list[Task]:
    """The trainings of an experiment or of a sweep.

    Args:
        name: one of `names()`.
        seeds: the seeds. Default: 0 alone.
        profile: as for `laperm_lib.paper.experiments.sweeps.grid`.
        **values: as for `laperm_lib.paper.experiments.sweeps.grid`, `evaluate_after` among them. What
            they say of a sweep's own setting counts instead of its values.

    Raises:
        ValueError: if a name, the profile or a value is not possible.

    Examples:
        >>> [task.settings.sync_period for task in tasks("conv2_k", precision=["float32"])]
        [100, 1000, 4000]
    """
    if name in SWEEPS:
        sweep = SWEEPS[name]
        name, values = sweep.experiment, {sweep.setting: sweep.values, **values}
    return grid(name, seeds=seeds, profile=profile, **values)


def plan(
    profile: str = "paper", *, seeds: int | None = None, **values: Sequence[Any]
) -> list[Task]:
    """The trainings that make the whole table: rows, their Adam baselines, and the sweeps.

    Each holds training images out, as `HELD_OUT` says, so that all three accuracies of
    `laperm_lib.paper.experiments.Outcome` come from it; `held_out=[0]` trains on all of them.

    Args:
        profile: as for `tasks`.
        seeds: how many for each. Default: as the rows say, 1 for sweeps.
        **values: as for `tasks`.

    Returns:
        The tasks, each once, though sweeps go through the rows.

    Raises:
        ValueError: as `tasks`.

    Examples:
        >>> planned = plan("short", seeds=1)
        >>> len({task.name for task in planned}) == len(planned)
        True
    """
    wanted = [(each.experiment, each.seeds) for each in ROWS]
    wanted += [(each.baseline, each.seeds) for each in ROWS]
    wanted += [(name, 1) for name in SWEEPS]
    found: dict[str, Task] = {}
    for name, count in wanted:
        for task in tasks(
            name, seeds=range(count if seeds is None else seeds), profile=profile, **values
        ):
            if "held_out" not in values:
                held_out = HELD_OUT[task.settings.dataset]
                task = replace(task, settings=replace(task.settings, held_out=held_out))
            found.setdefault(task.name, task)
    return list(found.values())


def steps(settings: Hyperparameters) -> int:
    """How many steps a training has.

    Examples:
        >>> steps(PUBLISHED["conv2"])
        125000
    """
    images = _TRAINING_IMAGES[settings.dataset] - settings.held_out
    return settings.epochs * -(-images // settings.batch_size)


def seconds(settings: Hyperparameters) -> float:
    """About how long a training takes on 2 cores in float32, without its evaluations.

    Examples:
        >>> seconds(PUBLISHED["conv13"]) > seconds(PUBLISHED["conv7"]) > seconds(PUBLISHED["f1"])
        True
    """
    each = MILLISECONDS_PER_IMAGE[settings.model] / 1000
    return steps(settings) * settings.batch_size * each


@dataclass(frozen=True)
class Variant:
    """How settings stand to the published ones: a profile, and what differs from it.

    Args:
        profile: "paper", "short" or "quick", the one that they are nearest to.
        differing: name and value of each setting that is another there.
    """

    profile: str
    differing: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.differing]
        return ", ".join([self.profile, *words])

    @property
    def is_as_published(self) -> bool:
        """Whether it trains what the table's row is about, in full or shortened.

        Precision, the images held out and the steps of evaluations may be others; data, network,
        sync period and so on may not.
        """
        return self.profile != "quick" and _BESIDE.issuperset(name for name, _ in self.differing)

    def without(self, setting: str | None) -> "Variant":
        """The same, whatever one setting is.

        Examples:
            >>> str(Variant("paper", (("sync_period", 20),)).without("sync_period"))
            'paper'
        """
        return Variant(self.profile, tuple(p for p in self.differing if p[0] != setting))

    def telling_apart(self, others: Iterable["Variant"]) -> "Variant":
        """The same, without what all of some others have in common with it.

        Examples:
            >>> held_out, fast = ("held_out", 5000), ("precision", "mixed_bfloat16")
            >>> both = Variant("short", (held_out, fast))
            >>> str(both.telling_apart([both, Variant("short", (held_out,))]))
            'short, precision=mixed_bfloat16'
        """
        common = set(self.differing).intersection(*(other.differing for other in others))
        return Variant(self.profile, tuple(p for p in self.differing if p not in common))


def variant(experiment: str, settings: Hyperparameters) -> Variant:
    """Name the settings of a run by what they have other than a profile.

    Args:
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        settings: the hyperparameters.

    Raises:
        ValueError: if the experiment is unknown.

    Examples:
        >>> str(variant("conv2", replace(PROFILES["short"]("conv2"), sync_period=100)))
        'short, sync_period=100'
    """
    found = []
    for profile in ("paper", "short", "quick"):
        start = PROFILES[profile](experiment)
        found.append(Variant(profile, tuple(_differing(settings, start))))
    return min(found, key=lambda each: len(each.differing))


def _differing(settings: Hyperparameters, start: Hyperparameters) -> Iterable[tuple[str, Any]]:
    for field in fields(Hyperparameters):
        value = getattr(settings, field.name)
        if value != getattr(start, field.name):
            yield field.name, value


def same_training(task: Task) -> tuple[str, int, Hyperparameters]:
    """What a task and another have in common if one of them need not be run besides the other.

    That is all but the precision that it computes in, and when it is evaluated.

    Examples:
        >>> one, other = tasks("conv7", precision=["float32", "mixed_bfloat16"])
        >>> same_training(one) == same_training(other)
        True
    """
    alike = replace(task.settings, precision="float32", evaluate_every=1)
    return task.experiment, task.seed, alike
