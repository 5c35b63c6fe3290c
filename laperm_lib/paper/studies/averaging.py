r"""Training with and without averages of weight samples, by SGD, momentum, Adam and LaPerm.

How volatile a curve :math:`a_1, ..., a_n` of accuracies is, the standard deviation of
:math:`a_{i+1} - a_i` says, and how monotonic it is, the share of those that are not negative.

References:
    Tripathi et al., "Regularization and Optimization strategies in Deep Convolutional Neural
    Network", arXiv 1905.05774 (PSWA, PWALKS, PSWM).
    Izmailov et al., UAI 2018 (SWA); Zhang et al., NeurIPS 2019 (Lookahead).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import batch_statistics, weight_vectors
from laperm_lib._arguments import check_name
from laperm_lib.callbacks import PSWM, PWALKS, SWA
from laperm_lib.callbacks.sampling import WeightSampler, replaced, weights_of
from laperm_lib.optimizers.laperm import LaPerm as LaPermOptimizer
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.paper.evaluation import Images, accuracy
from laperm_lib.paper.methods import SGD, Adam, Average
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.records import Record, complete
from laperm_lib.paper.settings import PUBLISHED, Data, Schedule, Settings
from laperm_lib.paper.training import Watch, run

METHODS = ("alone", "PSWA", "PSWA synchronised", "Lookahead")
"""The ways to train a network: alone, with averages only measured beside it; continuing from the
average of each window; the same, synchronised before it continues; or by Lookahead."""

_WINDOW, _MOMENTUM, _LOOKAHEAD_PERIOD = 10, 0.9, 10
_STATISTICS_IMAGES = 1000

_DIGITS = Settings(
    network=PaperNetwork(model="f2"),
    data=Data(dataset="digits", held_out=437),
    method=Adam(summed_loss=False),
    schedule=Schedule(epochs=30),
    evaluate_every=20,
)
_MNIST = _DIGITS.replace(
    dataset="mnist", held_out=10_000, epochs=10, batch_size=100, evaluate_every=500
)
_CIFAR10 = PUBLISHED["conv2_adam"].replace(
    method=Adam(summed_loss=False), epochs=1, held_out=2000, evaluate_every=160
)
_OPTIMIZERS = {
    "sgd": (SGD(), 0.1),
    "momentum": (SGD(momentum=0.9), 0.03),
    "adam": (Adam(summed_loss=False), 1e-3),
}
SETTINGS = {
    f"{settings.data.dataset}_{name}": settings.replace(method=method, learning_rate=rate)
    for settings in (_DIGITS, _MNIST, _CIFAR10)
    for name, (method, rate) in _OPTIMIZERS.items()
}
SETTINGS |= {
    # A period of two steps, a tenth of an epoch of digits, would be too short to learn.
    "digits_laperm": _DIGITS.replace(epochs=60, evaluate_every=100, sync_period=10),
    "mnist_laperm": _MNIST.replace(sync_period=50),
}
"""The studies by name. On digits and MNIST the layers of F2, 784-128-64-10, are trained from
He-uniform weights at a constant rate and evaluated once an epoch (digits by LaPerm, every five);
on CIFAR-10 conv2 as published, but for one of its 125 epochs, evaluated six times. Between two
evaluations there are ten samples, and averages are over ten. LaPerm synchronises when samples are
taken."""


def methods(settings: Settings) -> tuple[str, ...]:
    """The methods that a study trains networks with these settings by."""
    return METHODS[:3] if settings.method.period else ("alone", "PSWA", "Lookahead")


def with_method(settings: Settings, method: str) -> Settings:
    """The same settings with one of the `METHODS` around what they train by."""
    check_name("method", method, METHODS)
    if method == "alone":
        return settings
    is_lookahead = method == "Lookahead"
    average = Average(
        around=settings.method,
        average="Lookahead" if is_lookahead else "PSWA",
        sample_period=_LOOKAHEAD_PERIOD if is_lookahead else settings.evaluate_every // 10,
        window=_WINDOW,
        synchronise=method == "PSWA synchronised",
    )
    return settings.replace(method=average)


def method_of(settings: Settings) -> str:
    """Undo `with_method`."""
    method = settings.method
    if not isinstance(method, Average):
        return "alone"
    return f"{method.average} synchronised" if method.synchronise else method.average


def train(settings: Settings, seed: int, **how: Any) -> Record:
    """Train a network, and measure it and its averages at each evaluation.

    Args:
        settings: as in `SETTINGS`, perhaps `with_method`.
        seed: as for `training.run`.
        **how: more arguments of that.

    Returns:
        A record whose `measured` has the steps; for each network, "training" and averages beside
        it, the curve of its accuracies on the images held out, its test accuracy at the end,
        whether it is a permutation, and the standard deviation of its weights over the initial.

    Raises:
        ValueError: if no images are held out, or evaluations are no multiple of a period.

    Examples:
        >>> settings = with_method(SETTINGS["digits_sgd"].replace(epochs=2), "PSWA")
        >>> record = train(settings, seed=0)
        >>> record.measured["steps"], len(record.measured["curves"]["training"])
        ([20, 40], 2)
    """
    if not settings.data.held_out:
        raise ValueError("Networks are evaluated on training images held out; none are.")
    if settings.evaluate_every % (settings.method.period or 1):
        raise ValueError(
            f"Evaluations are {settings.evaluate_every} steps apart, which is no multiple of the "
            f"sync period {settings.method.period}."
        )
    return run(settings, seed=seed, watches=[AveragesWatch(settings)], **how)


def write(
    folder: str | os.PathLike[str],
    names: Iterable[str] = tuple(SETTINGS),
    seeds: Iterable[int] = range(5),
    *,
    data_dir: str | None = None,
    verbose: int = 0,
) -> None:
    """Train what is missing of studies, and write each record to "NAME.json" at once."""
    seeds = list(seeds)
    for name in names:
        planned = [
            (with_method(SETTINGS[name], method), seed)
            for seed in seeds
            for method in methods(SETTINGS[name])
        ]
        make = partial(train, experiment=name, data_dir=data_dir)
        complete(Path(folder, f"{name}.json"), planned, make, verbose)


class AveragesWatch(Watch):
    """Measures the network in training, and averages beside it, at each evaluation."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._every = settings.evaluate_every
        self._sample_period = self._every // 10
        self.periods = (self._every, self._sample_period)
        if settings.method.period and method_of(settings) == "alone":
            self.periods += (self._sample_period // 2,)
        self._found: dict[str, Any] = {
            name: {} for name in ("curves", "test", "permutation", "relative_std")
        } | {"steps": []}
        self._beside: dict[str, WeightSampler] = {}

    def begin(self, images: Images, last_step: int) -> None:
        self._images, self._last_step = images, last_step
        self._initial_std = _std(self.model)
        self._statistics = images.for_statistics(_STATISTICS_IMAGES)
        if method_of(self._settings) != "alone":
            return
        how: dict[str, Any] = {"sample_period": self._sample_period, "batches": self._statistics}
        half = last_step // 2 // self._every * self._every
        self._beside = {
            "PWALKS": PWALKS(window=_WINDOW, **how),
            "PSWM": PSWM(momentum=_MOMENTUM, **how),
            "SWA": SWA(start=half, **how),
        }
        if self._settings.method.period:
            # The others take samples at synchronisations, this one between them.
            how["start"] = self._sample_period // 2
            self._beside["PWALKS between"] = PWALKS(window=_WINDOW, **how)
        self.before = list(self._beside.values())

    def measured(self) -> dict[str, Any]:
        averages = {"sample_period": self._sample_period, "window": _WINDOW, "momentum": _MOMENTUM}
        return self._found | ({"averages": averages} if self._beside else {})

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        model = self.model
        step = steps_taken(model)
        if step % self._every:
            return
        for name, network in self._networks(model):
            with network:
                self._measure(name, model, is_last=step == self._last_step)
        self._found["steps"].append(step)

    def _networks(self, model: keras.Model) -> Iterator[tuple[str, AbstractContextManager[None]]]:
        """The names of networks, and contexts in which the model is that network."""
        other = partial(replaced, model, batches=self._statistics)
        permuting = bool(self._settings.method.period)
        yield "training", nullcontext()
        weights = weights_of(model)
        if batch_statistics.normalizations(model):
            yield "training re-estimated", other(weights)
        if permuting and method_of(self._settings) == "PSWA":
            yield "training synchronised", other(weights, synchronise=True)
        for name, sampler in self._beside.items():
            if sampler.samples:
                yield name, other(sampler.average)
                if permuting:
                    yield f"{name} synchronised", other(sampler.average, synchronise=True)

    def _measure(self, name: str, model: keras.Model, is_last: bool) -> None:
        images, found = self._images, self._found
        curve = found["curves"].setdefault(name, [None] * len(found["steps"]))
        curve.append(accuracy(model, images.x_held_out, images.y_held_out))
        if is_last:
            found["test"][name] = accuracy(model, images.x_test, images.y_test)
            found["relative_std"][name] = round(_std(model) / self._initial_std, 4)
            if isinstance(model.optimizer, LaPermOptimizer):
                found["permutation"][name] = model.optimizer.is_permutation()


def _std(model: keras.Model) -> float:
    """The standard deviation of all kernel weights."""
    kernels = [vectors.matrix().ravel() for vectors in weight_vectors.of(model)]
    return float(np.std(np.concatenate(kernels)))


def name_of(record: Record, network: str) -> str:
    """What a network of a record is called among all of a study."""
    method = method_of(record.settings)
    if method == "PSWA synchronised":
        method = "PSWA, going on synchronised"
    return network.replace("training", method)


@dataclass(frozen=True)
class Measures:
    """What one curve of accuracies says; `test` is the test accuracy at the end, 0 to 1."""

    test: float
    mean: float  # the higher, the faster
    volatility: float  # the standard deviation of the changes between evaluations
    late_volatility: float  # the same in the second half
    monotonicity: float  # the share of evaluations that are not below the one before


def measures(records: Iterable[Record]) -> dict[str, dict[int, Measures]]:
    """The measures of all networks of a study, by name and seed."""
    found: dict[str, dict[int, Measures]] = {}
    for record in records:
        for network, curve in record.measured["curves"].items():
            values = [value for value in curve if value is not None]
            late = values[-(len(curve) // 2) :]
            found.setdefault(name_of(record, network), {})[record.seed] = Measures(
                test=record.measured["test"][network],
                mean=float(np.mean(values)),
                volatility=float(np.std(np.diff(values))),
                late_volatility=float(np.std(np.diff(late))),
                monotonicity=float(np.mean(np.diff(values) >= 0)),
            )
    return found


BETTER: dict[str, Callable[[Measures, Measures], bool]] = {
    "less volatile": lambda one, other: one.volatility < other.volatility,
    "less volatile late": lambda one, other: one.late_volatility < other.late_volatility,
    "as monotonic": lambda one, other: one.monotonicity >= other.monotonicity,
    "faster": lambda one, other: one.mean > other.mean,
    "better in the end": lambda one, other: one.test > other.test,
}
"""What one network can be in comparison to another with the same seed."""


def compare(studies: Iterable[Sequence[Record]], network: str) -> dict[str, tuple[int, int]]:
    """In how many pairs of trainings a network is better than the one trained alone.

    Returns:
        For each of `BETTER`, in how many pairs and of how many.

    Examples:
        >>> from laperm_lib.paper import manifest, records
        >>> path = manifest.default_folder() / "averaging" / "digits_sgd.json"
        >>> compare([records.load(path)], "PSWA")["less volatile"]
        (5, 5)
    """
    totals = dict.fromkeys(BETTER, (0, 0))
    for records in studies:
        found = measures(records)
        one, alone = found[network], found["alone"]
        for word, is_better in BETTER.items():
            for seed in one.keys() & alone.keys():
                better, pairs = totals[word]
                totals[word] = (better + is_better(one[seed], alone[seed]), pairs + 1)
    return totals


def verdict(better: int, pairs: int) -> str:
    """What a count of `compare` says of a claim: [Re] from 3 in 4 on, [¬Re] up to half."""
    if not pairs:
        raise ValueError("There is no pair of trainings to judge by.")
    share = better / pairs
    return "[Re]" if share >= 0.75 else "[¬Re]" if share <= 0.5 else "mixed"
