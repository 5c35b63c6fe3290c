"""What a training depends on beside its seed, as dataclasses that everything else reads.

References:
    Qiu and Suda, NeurIPS 2020, section 5, and the notebooks published with it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from laperm_lib._arguments import check_integer, check_number
from laperm_lib.cycles.step import CycleSearch
from laperm_lib.initializers import DISTRIBUTIONS
from laperm_lib.paper import datasets
from laperm_lib.paper import networks as models
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.initial_network import checked_pruning

_INTEGERS = {"epochs": 1, "batch_size": 1, "decay_every": 1, "evaluate_every": 1, "held_out": 0}

PRECISIONS = ("float32", "mixed_bfloat16")
"""The dtype policies of Keras that a network can be trained with; weights are float32 in both."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What a run depends on, beside its seed.

    Args:
        model: a name for `laperm_lib.paper.networks.build`.
        dataset: a name for `laperm_lib.paper.datasets.load`.
        epochs: how often the training images are gone through.
        sync_period: steps between synchronisations; None trains by Adam alone.
        permute_biases: synchronise the biases too. Default False.
        batch_size: images per step. Default 50.
        learning_rate: Adam's rate at the start. Default 0.001.
        decay: the factor on the rate after every `decay_every` epochs. Default 1.
        decay_every: in epochs. Default 1.
        milestones: pairs (epoch, factor): behind that epoch, counted from 0, the starting rate is
            multiplied by the factor, until the next milestone. Default: there are none.
        pixels: how their values are scaled, one of `laperm_lib.paper.networks.PIXELS`. Default: that of
            the network's `laperm_lib.paper.networks.spec`.
        augmentation: how the training images are distorted; None (the default) leaves them.
        initializer: the distribution of the initial weights. Default "he_uniform".
        pruned: the fraction of kernel weights that `laperm_lib.sparsity.random_prune` sets to zero
            before training. Default 0.
        shared_value: the value that every kept weight starts with, where there is only one; then
            `keep` says which, and nothing else is pruned. Default: there is none.
        keep: with a shared value, the probability that a weight is kept, for each kernel.
        constant_fan_in: with a shared value, whether every neuron of a layer keeps equally many
            weights. Default False, as published.
        precision: one of `PRECISIONS`. Default "float32".
        held_out: how many training images are left out, to choose a network by them. Default 0, as
            published.
        evaluate_every: the steps between two evaluations, at least; each is at the first
            synchronisation from there. Default 1000.

    Raises:
        ValueError: for a setting that no run could have.
    """

    model: str
    dataset: str
    epochs: int
    sync_period: int | None
    permute_biases: bool = False
    batch_size: int = 50
    learning_rate: float = 1e-3
    decay: float = 1.0
    decay_every: int = 1
    milestones: tuple[tuple[int, float], ...] = ()
    pixels: models.Pixels | None = None
    augmentation: Augmentation | None = None
    initializer: str = "he_uniform"
    pruned: float = 0.0
    shared_value: float | None = None
    keep: tuple[float, ...] = ()
    constant_fan_in: bool = False
    precision: str = "float32"
    held_out: int = 0
    evaluate_every: int = 1000

    def __post_init__(self) -> None:
        models.spec(self.model)
        numbers: dict[str, Any] = {
            name: check_integer(name, getattr(self, name), at_least=least)
            for name, least in _INTEGERS.items()
        }
        if self.sync_period is not None:
            numbers["sync_period"] = check_integer("sync_period", self.sync_period, at_least=1)
        for name in ("learning_rate", "decay"):
            numbers[name] = check_number(name, getattr(self, name), at_least=0)
        numbers["milestones"] = tuple(
            (
                check_integer("the epoch of a milestone", epoch, at_least=0),
                check_number("the factor of a milestone", factor, at_least=0),
            )
            for epoch, factor in self.milestones
        )
        numbers |= checked_pruning(self.pruned, self.shared_value, self.keep, self.constant_fan_in)
        _check_name("dataset", self.dataset, datasets.NAMES)
        _check_name("dataset", self.dataset, (models.spec(self.model).dataset, "digits"))
        pixels = models.spec(self.model).pixels if self.pixels is None else self.pixels
        _check_name("pixels", pixels, models.PIXELS)
        object.__setattr__(self, "pixels", pixels)
        _check_name("initializer", self.initializer, DISTRIBUTIONS)
        _check_name("precision", self.precision, PRECISIONS)
        # Python's own numbers: equal settings have one fingerprint, and JSON holds them.
        for name, value in numbers.items():
            object.__setattr__(self, name, value)

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0.

        Examples:
            >>> from laperm_lib.paper.experiments.profiles import PUBLISHED
            >>> [round(PUBLISHED["conv2"].rate(epoch), 6) for epoch in (0, 9, 10, 124)]
            [0.001, 0.001, 0.0006, 2e-06]
            >>> [PUBLISHED["resnet50"].rate(epoch) for epoch in (80, 81, 199)]
            [0.001, 0.0001, 5e-07]
        """
        factors = [factor for after, factor in self.milestones if epoch > after]
        factor = factors[-1] if factors else 1.0
        return self.learning_rate * factor * self.decay ** (epoch // self.decay_every)


@dataclass(frozen=True, kw_only=True)
class SGPermHyperparameters(Hyperparameters):
    """What a run of `laperm_lib.paper.studies.sgperm` depends on, beside its seed.

    The network is permuted in every step, so `sync_period` is 1, and `learning_rate`, with its
    decay, is that of the recommendation.

    Args:
        rearrangement: the hyperparameters of SGPerm. A run of seed s takes s for the random parts.
    """

    sync_period: int | None = 1
    learning_rate: float = 0.01
    rearrangement: CycleSearch


def _check_name(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"Unknown {name} {value!r}; there are {', '.join(known)}.")


def fingerprint(settings: Hyperparameters, default: Hyperparameters) -> str:
    """A short name for what settings have other than the default ones.

    Args:
        settings: the settings.
        default: what they are compared with, as a rule the published ones.

    Returns:
        Eight hexadecimal digits of the SHA-256 of the differing settings; "" if none differs.

    Examples:
        >>> from dataclasses import replace
        >>> from laperm_lib.paper.experiments.profiles import PUBLISHED
        >>> conv7 = PUBLISHED["conv7"]
        >>> fingerprint(conv7, conv7), len(fingerprint(replace(conv7, sync_period=20), conv7))
        ('', 8)
    """
    ours, theirs = to_json(settings), to_json(default)
    differing = {name: value for name, value in ours.items() if (name, value) not in theirs.items()}
    if not differing:
        return ""
    text = json.dumps(differing, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def to_json(settings: Hyperparameters) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return json.loads(json.dumps(asdict(settings)))


def from_json(values: dict[str, Any]) -> Hyperparameters:
    """Undo `to_json`.

    Raises:
        ValueError: if a setting is unknown or impossible.
        TypeError: if one is missing.
    """
    kind = SGPermHyperparameters if "rearrangement" in values else Hyperparameters
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"There is no setting {', '.join(sorted(unknown))}.")
    values = dict(values)
    values["keep"] = tuple(values["keep"])
    values["milestones"] = tuple((epoch, factor) for epoch, factor in values["milestones"])
    if values["augmentation"] is not None:
        values["augmentation"] = Augmentation(**values["augmentation"])
    if "rearrangement" in values:
        values["rearrangement"] = CycleSearch(**values["rearrangement"])
    return kind(**values)
