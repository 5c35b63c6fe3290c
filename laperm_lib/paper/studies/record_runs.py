"""Record runs: what two cores reach on MNIST and CIFAR-10 by permuting, and in which time.

Every kernel but a fixed whitening one is permuted; normalisation is free. Settings are chosen by
the accuracy on images held out, from `TRIALS`, whose records are made by::

    from laperm_lib.paper.studies import record_runs
    record_runs.write_trials("pretrained", "cifar10")

References:
    Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498 (airbench).
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from laperm_lib.paper.methods import Adam, LaPerm
from laperm_lib.paper.records import Record, complete
from laperm_lib.paper.settings import RECORD_RUNS, Settings
from laperm_lib.paper.training import run

_HELD_OUT = 5000
_CIFAR10 = RECORD_RUNS["fast_cifar10"].replace(held_out=_HELD_OUT, epochs=8, learning_rate=5e-3)
_MNIST = RECORD_RUNS["fast_mnist"].replace(held_out=_HELD_OUT)
_LATENT = LaPerm(inner=Adam(summed_loss=False), sync_period=1, latent_weights=True)
TRIALS: dict[str, tuple[Settings, ...]] = {
    "cifar10": (
        _CIFAR10.replace(model="conv6_64"),
        _CIFAR10,
        _CIFAR10.replace(model="conv6_64_relu"),
        _CIFAR10.replace(learning_rate=1e-2),
        _CIFAR10.replace(method=_LATENT),
        _CIFAR10.replace(sync_period=None),
        _CIFAR10.replace(sync_period=None, learning_rate=2e-3),
        _CIFAR10.replace(sync_period=10),
        _CIFAR10.replace(sync_period=2),
        _CIFAR10.replace(learning_rate=2e-2),
    ),
    "mnist": (
        _MNIST.replace(learning_rate=2e-2),
        _MNIST,
        _MNIST.replace(sync_period=None, learning_rate=5e-3),
        _MNIST.replace(sync_period=None, learning_rate=1e-2),
    ),
}
"""What is tried, by dataset, in this order."""


def train(settings: Settings, seed: int, **how: Any) -> Record:
    """Train; the record does not say how the test images are classified."""
    record = run(settings, seed=seed, **how)
    return replace(record, final=None, final_reestimated=None)


def write_trials(folder: str | os.PathLike[str], dataset: str, *, verbose: int = 1) -> None:
    """Train what is missing of the `TRIALS`, with seed 0, and write each record at once."""
    planned = [(settings, 0) for settings in TRIALS[dataset]]
    complete(Path(folder, f"trials_{dataset}.json"), planned, train, verbose=verbose)
