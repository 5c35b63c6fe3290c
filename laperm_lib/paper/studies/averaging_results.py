"""What a study of weight averages depends on and what comes out of it, as JSON keeps it.

`laperm_lib.paper.studies.averaging` runs the studies.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from laperm_lib import files
from laperm_lib._arguments import check_integer
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters, from_json
from laperm_lib.paper.experiments.profiles import PUBLISHED

_OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training and its averages depend on, beside the seed and the method.

    Args:
        training: network, data and schedule, at the rate of the first epoch throughout. With a sync
            period the network is trained by LaPerm around the optimizer.
        optimizer: "sgd", "momentum" (0.9) or "adam".
        sample_period: steps between two samples; `training.evaluate_every`, the steps between two
            evaluations, is a multiple of it, and of the sync period.
        window: the samples that PSWA and PWALKS average.
        momentum: of PSWM. Default 0.9.
        lookahead_period: the steps k of Lookahead, whose slow step size is 0.5; the steps between
            two evaluations are a multiple of it. Default 10.

    Raises:
        ValueError: for settings that no training could have.
    """

    training: Hyperparameters
    optimizer: str
    sample_period: int
    window: int
    momentum: float = 0.9
    lookahead_period: int = 10

    def __post_init__(self) -> None:
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"optimizer is one of {_OPTIMIZERS}, got {self.optimizer!r}.")
        if not self.training.held_out:
            raise ValueError("Networks are evaluated on training images held out; none are.")
        every = self.training.evaluate_every
        for name, period in {
            "sample_period": self.sample_period,
            "lookahead_period": self.lookahead_period,
            "sync_period": self.training.sync_period or 1,
        }.items():
            if every % check_integer(name, period, at_least=1):
                raise ValueError(
                    f"Evaluations are {every} steps apart, which is no multiple of {name}={period}."
                )


_DIGITS = Hyperparameters(
    model="f2",
    dataset="digits",
    epochs=30,
    sync_period=None,
    batch_size=50,
    held_out=437,
    evaluate_every=20,
)
_MNIST = replace(
    _DIGITS, dataset="mnist", epochs=10, batch_size=100, held_out=10_000, evaluate_every=500
)
_CIFAR10 = replace(PUBLISHED["conv2_adam"], epochs=1, held_out=2000, evaluate_every=160)

_RATES = {"sgd": 0.1, "momentum": 0.03, "adam": 1e-3}


def _settings(training: Hyperparameters, optimizer: str) -> Settings:
    """Ten samples between two evaluations, and averages of ten."""
    period = training.evaluate_every // 10
    return Settings(training=training, optimizer=optimizer, sample_period=period, window=10)


SETTINGS = {
    f"{training.dataset}_{optimizer}": _settings(replace(training, learning_rate=rate), optimizer)
    for training in (_DIGITS, _MNIST, _CIFAR10)
    for optimizer, rate in _RATES.items()
}
_LAPERM = {
    # A period of two steps, a tenth of an epoch of digits, would be too short to learn.
    "digits": replace(_DIGITS, epochs=60, evaluate_every=100, sync_period=10),
    "mnist": replace(_MNIST, sync_period=50),
}
SETTINGS |= {f"{name}_laperm": _settings(training, "adam") for name, training in _LAPERM.items()}
"""The studies by name. On digits and MNIST the layers of F2, 784-128-64-10, are trained from
He-uniform weights at a constant rate and evaluated once an epoch (digits by LaPerm, every five);
on CIFAR-10 conv2 as published, but for one of its 125 epochs, evaluated six times. PSWA goes on
from an average of ten samples at each evaluation. LaPerm synchronises when samples are taken."""


@dataclass(frozen=True)
class Result:
    """What came out of one training.

    A network is named "training" as training has it, or by the average that it is. "synchronised"
    stands behind the name if LaPerm has synchronised it for the evaluation, and "re-estimated"
    behind "training" if it has new statistics of batch normalisation, as all averages have.

    Args:
        settings: the settings.
        method: how it was trained, one of `laperm_lib.paper.studies.averaging.METHODS`.
        seed: the seed of initial weights, order of images, augmentation and dropout.
        steps: the steps after which it was evaluated.
        curves: for each network the accuracy on the images held out at each of them, 0 to 1; None
            before there was an average.
        test: for each network the accuracy on the test images at the end.
        permutation: for each network, whether it is bitwise a permutation of the start then; empty
            without LaPerm.
        spread: for each network the standard deviation of its kernel weights at the end, as a share
            of that at the start.
        seconds: wall time of training and evaluating.
        data_fingerprint: SHA-256 of the dataset.
        environment: versions, hardware and code revision.
    """

    settings: Settings
    method: str
    seed: int
    steps: tuple[int, ...]
    curves: dict[str, tuple[float | None, ...]]
    test: dict[str, float]
    permutation: dict[str, bool]
    spread: dict[str, float]
    seconds: float
    data_fingerprint: str
    environment: dict[str, str]


def name_of(result: Result, network: str) -> str:
    """What a network of a result is called among all of a study.

    Args:
        result: of one training.
        network: one of its networks.

    Returns:
        The name of the average, or of the method for the network in training.
    """
    method = result.method
    if method == "PSWA synchronised":
        method = "PSWA, going on synchronised"
    return network.replace("training", method)


def save(results: Iterable[Result], path: str | os.PathLike[str]) -> None:
    """Write results to a JSON file, atomically."""
    files.write_json(path, [asdict(result) for result in results])


def load(path: str | os.PathLike[str]) -> tuple[Result, ...]:
    """Read results that `save` has written.

    Raises:
        LaPermError: if there is no such file, or it holds no results.
    """
    return files.read_json(
        path, lambda entries: tuple(map(_from_json, entries)), holds="results of averages"
    )


def _from_json(values: dict[str, Any]) -> Result:
    training = from_json(values["settings"]["training"])
    settings = Settings(**{**values["settings"], "training": training})
    curves = {name: tuple(curve) for name, curve in values["curves"].items()}
    steps = tuple(values["steps"])
    return Result(**{**values, "settings": settings, "curves": curves, "steps": steps})
