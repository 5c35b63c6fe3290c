"""What a training depends on beside its seed, by composition; and the paper's experiments by name.

Settings say what is trained (`network`), on what (`data`), how (`method`) and how long
(`schedule`). Every single setting has a name of its own, whatever part it is in: `replace` and
`python -m laperm_lib run ... --set NAME=VALUE` take these names.

References:
    Qiu and Suda, NeurIPS 2020, section 5, and the notebooks published with it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Annotated, Any, TypeVar

from laperm_lib._arguments import check_integer, check_name, check_number
from laperm_lib.paper import datasets
from laperm_lib.paper._fields import (
    FLOAT32,
    Count,
    Natural,
    NonNegative,
    Share,
    check_fields,
    check_type,
)
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.methods import Adam, EpochRates, LaPerm, Method, Triangle
from laperm_lib.paper.networks import Network, PaperNetwork, Pixels

_Part = TypeVar("_Part", bound=Any)

TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000, "digits": 1437}
"""How many training images each dataset has."""

NEVER = 10**9
"""As `evaluate_every`: beyond the last step of any training, so that only its end is measured."""

# Steps, one for each image at most, are counted in int32, and rates are listed.
_Epochs = Annotated[int, partial(check_integer, at_least=1, at_most=2**31 // 60_000)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a network is trained on.

    Args:
        dataset: a name for `laperm_lib.paper.datasets.load`.
        pixels: how they are scaled, one of `networks.PIXELS`. Default: as published.
        augmentation: how training images are distorted. Default: they are not.
        held_out: how many training images are left out, to choose a network by. Default 0.
        label_smoothing: the share of each target that is spread over all classes. Default 0.
    """

    dataset: str
    pixels: Pixels | None = None
    augmentation: Augmentation | None = None
    held_out: Natural = 0
    label_smoothing: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_name("dataset", self.dataset, datasets.NAMES)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a network is trained, and at which learning rates.

    Args:
        epochs: how often the training images are gone through.
        batch_size: images per step. Default 50.
        learning_rate: the rate in the first epoch. Default 0.001.
        decay: the factor on the rate after every `decay_every` epochs. Default 1.
        decay_every: in epochs. Default 1.
        milestones: pairs (epoch, factor): after that epoch, counted from 0, the first rate is
            multiplied by the factor, until the next milestone. Default: there are none.
        peak: the share of the steps after which the rate is `learning_rate`; it rises linearly from
            0 to that, and falls linearly to 0 at the end. Default: none, a rate for each epoch.

    Examples:
        >>> Schedule(epochs=20, decay=0.5, decay_every=10).rate(10)
        0.0005
    """

    epochs: _Epochs
    batch_size: Count = 50
    learning_rate: NonNegative = 1e-3
    decay: NonNegative = 1.0
    decay_every: Count = 1
    milestones: tuple[tuple[Natural, NonNegative], ...] = ()
    peak: Share | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.peak is not None and (self.decay != 1 or self.milestones):
            raise ValueError("A rate with a peak has no decay and no milestones.")
        try:
            highest = max(map(self.rate, range(self.epochs)))
        except OverflowError:
            highest = math.inf
        check_number("The highest learning rate of all epochs", highest, at_most=FLOAT32)

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        factors = [factor for after, factor in self.milestones if epoch > after]
        factor = factors[-1] if factors else 1.0
        return self.learning_rate * factor * self.decay ** (epoch // self.decay_every)

    def rates(self, steps_per_epoch: int) -> EpochRates | Triangle:
        """The learning rate as a schedule of Keras."""
        if self.peak is None:
            return EpochRates(map(self.rate, range(self.epochs)), steps_per_epoch)
        steps = self.epochs * steps_per_epoch
        return Triangle(self.learning_rate, min(round(self.peak * steps), steps - 1), steps)

    def in_epochs(self, epochs: int) -> "Schedule":
        """Another number of epochs, over which the learning rate falls as far."""
        last = (self.epochs - 1) // self.decay_every  # how often the rate decays
        milestones = tuple((after * epochs // self.epochs, f) for after, f in self.milestones)
        return dataclasses.replace(
            self,
            epochs=epochs,
            decay=self.decay ** (last / max(1, epochs - 1)),
            decay_every=1,
            milestones=milestones,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run depends on beside its seed.

    Args:
        network: what is trained, and how it starts.
        data: on what.
        method: how.
        schedule: how long, at which learning rates.
        evaluate_every: the steps between two evaluations, at least; each is at the first
            synchronisation from there. Default 1000.

    Raises:
        ValueError: for a setting that no run could have.

    Examples:
        >>> settings = PUBLISHED["conv7"].replace(epochs=5, sync_period=20)
        >>> settings.method.period, settings.schedule.batch_size
        (20, 50)
        >>> settings.replace(sync_period=None).method
        Adam(summed_loss=True, keep_zeros=False)
    """

    network: Network
    data: Data
    method: Method
    schedule: Schedule
    evaluate_every: Count = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        data, spec = self.data, self.network.spec
        check_name("dataset", data.dataset, (spec.dataset, "digits"))
        count = TRAINING_IMAGES[data.dataset]
        if data.held_out >= count:
            raise ValueError(f"{data.held_out} images cannot be held out of {count}.")
        if data.pixels is None:
            object.__setattr__(self, "data", dataclasses.replace(data, pixels=spec.pixels))

    def replace(self, **values: Any) -> "Settings":
        """Other values for single settings, by name.

        Args:
            **values: names of settings, as `values()` has them, or whole parts such as `network`.
                `sync_period=None` leaves LaPerm's inner method, a number puts LaPerm around one.

        Raises:
            ValueError: if there is no such setting, or it cannot have the value.
        """
        method = check_type("method", values.pop("method", self.method), Method)
        if "sync_period" in values and None in (values["sync_period"], method.period):
            period = values.pop("sync_period")
            if period is not None:
                method = LaPerm(inner=method, sync_period=period)
            elif isinstance(method, LaPerm):
                method = method.inner
        if not method.permuted:
            values.pop("permute_biases", None)  # Adam alone changes biases anyway
        values["method"] = method
        changed = _replaced(self, values)
        if values:
            known = ", ".join(self.values())
            raise ValueError(f"There is no setting {next(iter(values))!r}; there are {known}.")
        return changed

    def values(self) -> dict[str, Any]:
        """All settings by name, from every part."""
        parts = (self.network, self.data, self.schedule, self.method)
        found = {name: value for part in parts for name, value in _leaves(part)}
        return found | {"sync_period": self.method.period, "evaluate_every": self.evaluate_every}

    def differing(self, other: "Settings") -> dict[str, Any]:
        """The settings that another one does not have, by name."""
        theirs = other.values()
        return {n: v for n, v in self.values().items() if n not in theirs or theirs[n] != v}


def fingerprint(settings: Settings, default: Settings) -> str:
    """A short name for what settings have other than the default ones; "" for nothing."""
    differing = settings.differing(default)
    if not differing:
        return ""
    text = json.dumps(differing, sort_keys=True, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _leaves(part: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a part, and those of the methods inside of it."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Method):
            yield from _leaves(value)
        else:
            yield field.name, value


def _replaced(part: _Part, values: dict[str, Any]) -> _Part:
    """A part, and those inside of it, with their own among `values`, which are taken from there."""
    own = {}
    for field in fields(part):
        value = values.pop(field.name, getattr(part, field.name))
        is_part = isinstance(value, Network | Data | Method | Schedule)
        own[field.name] = _replaced(value, values) if is_part else value
    return dataclasses.replace(part, **own)


_CONV7 = Settings(
    network=PaperNetwork(model="conv7"),
    data=Data(dataset="mnist", augmentation=Augmentation(rotation=10, zoom=0.1, shift=0.1)),
    method=LaPerm(sync_period=1200, permute_biases=True),
    schedule=Schedule(epochs=45, decay=0.95),
    evaluate_every=1200,
)
_CONV2 = Settings(
    network=PaperNetwork(model="conv2"),
    data=Data(dataset="cifar10", augmentation=Augmentation(rotation=15, shift=0.1, flip=True)),
    method=LaPerm(sync_period=1000),
    schedule=Schedule(epochs=125, decay=0.6, decay_every=10),
)
_RESNET50 = Settings(
    network=PaperNetwork(model="resnet50"),
    data=Data(dataset="cifar10", augmentation=Augmentation(shift=0.1, flip=True)),
    method=LaPerm(sync_period=400),
    schedule=Schedule(epochs=200, milestones=((80, 1e-1), (120, 1e-2), (160, 1e-3), (180, 0.5e-3))),
)
_F1 = Settings(
    network=PaperNetwork(model="f1", shared_value=0.08, keep=(0.6,)),
    data=Data(dataset="mnist"),
    method=LaPerm(sync_period=250),
    schedule=Schedule(epochs=10, batch_size=128, decay=0.95),
    evaluate_every=250,
)
PUBLISHED = {
    "conv7": _CONV7,
    "conv2": _CONV2,
    "conv4": _CONV2.replace(model="conv4"),
    "conv13": _CONV2.replace(model="conv13"),
    "resnet50": _RESNET50,
    "resnet50_30": _RESNET50.replace(pruned=0.3, sync_period=800),
    "resnet50_50": _RESNET50.replace(pruned=0.5, sync_period=800),
    "resnet50_70": _RESNET50.replace(pruned=0.7, sync_period=800),
    "f1": _F1,
    "f1_notebook": _F1.replace(keep=(4 / 7,)),
    "f2": _F1.replace(
        network=PaperNetwork(model="f2", shared_value=0.03, keep=(1 / 15, 1 / 7, 1 / 3)), epochs=25
    ),
}
PUBLISHED |= {f"{name}_adam": each.replace(sync_period=None) for name, each in PUBLISHED.items()}
"""The settings as published, and for each network Adam alone from the same initial weights: it may
give a weight that starts as zero another value, and one shared value becomes many. f1 keeps 60 % of
its weights, as its row of the paper (p = 40 %) and the published file say; its notebook's
probability is 4/7. conv7 has the period of the published weights; its notebook's is 20."""

_CIFAR10 = Settings(
    network=PaperNetwork(model="conv6_64_silu", precision="mixed_bfloat16"),
    data=Data(
        dataset="cifar10",
        augmentation=Augmentation(shift=2 / 32, flip=True, alternate=True),
        label_smoothing=0.2,
    ),
    method=LaPerm(inner=Adam(summed_loss=False), sync_period=5),
    schedule=Schedule(epochs=30, batch_size=250, learning_rate=1e-2, peak=0.25),
    evaluate_every=NEVER,
)
_MNIST = _CIFAR10.replace(
    network=PaperNetwork(model="conv6_mnist", precision="mixed_bfloat16"),
    dataset="mnist",
    augmentation=Augmentation(rotation=10, zoom=0.1, shift=0.1),
    epochs=4,
)
RECORD_RUNS = {
    "fast_mnist": _MNIST,
    "record_mnist": _MNIST.replace(epochs=20),
    "fast_cifar10": _CIFAR10,
    "record_cifar10": _CIFAR10.replace(epochs=90),
}
RECORD_RUNS |= {
    f"{name}_adam": each.replace(sync_period=None, learning_rate=5e-3)
    for name, each in RECORD_RUNS.items()
}
"""What two cores reach in minutes and in hours, beyond the paper: settings that were chosen on
images held out, from the trials of `studies.record_runs`; and Adam alone. The test images are
looked at once, at the end."""

EXPERIMENTS = PUBLISHED | RECORD_RUNS
"""The settings of all experiments by name, at full length."""


def published(name: str) -> Settings:
    """The settings of an experiment, as published, and of a record run.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> published("conv2").method.period
        1000
    """
    check_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def quick(name: str) -> Settings:
    """An experiment on the bundled digits, cut down to seconds.

    Examples:
        >>> quick("conv7").data.dataset
        'digits'
    """
    settings = published(name)
    has_one_value = settings.network.shared_value is not None  # type: ignore[attr-defined]
    epochs, period = (80, 100) if has_one_value else (4, 20)
    return settings.replace(
        schedule=settings.schedule.in_epochs(epochs),
        dataset="digits",
        sync_period=None if settings.method.period is None else period,
        evaluate_every=period,
    )


def short(name: str) -> Settings:
    """An experiment cut down to a tenth, on its own data; f1 and f2 as published.

    Examples:
        >>> short("conv2").schedule.epochs
        13
    """
    settings = published(name)
    if settings.network.shared_value is not None:  # type: ignore[attr-defined]
        return settings
    epochs = math.ceil(settings.schedule.epochs / 10)
    return settings.replace(schedule=settings.schedule.in_epochs(epochs))


PROFILES = {"quick": quick, "short": short, "paper": published}
"""The settings that an experiment's name stands for, by profile: seconds on the bundled digits, a
tenth of the epochs, or as published."""
