r"""Which sync period and which learning rate belong together: a grid of both, on three networks.

A candidate for what decides is the *travel*: how far the inner optimizer moves a weight between two
synchronisations, in gaps between neighbouring initial values,

.. math:: \frac{1}{d} \sum_i \frac{|w_i - w'_i|}{(\max w' - \min w') / d}

over a weight vector :math:`w'` of d values as it was synchronised last.

Records are made by::

    from laperm_lib.paper.studies import sync_period
    sync_period.write("pretrained/sync_period")

References:
    Qiu and Suda, NeurIPS 2020, section 5.2, which varies the period alone.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from laperm_lib import weight_vectors
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.paper._extras import extra
from laperm_lib.paper.benchmark import steps
from laperm_lib.paper.evaluation import Images
from laperm_lib.paper.methods import SGD, Adam, LaPerm, Method
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.records import Record, complete
from laperm_lib.paper.settings import NEVER, Data, Schedule, Settings
from laperm_lib.paper.training import Watch, run

with extra("paper"):
    import pandas as pd

_DENSE = Settings(
    network=PaperNetwork(model="f2"),
    data=Data(dataset="mnist", held_out=5000),
    method=Adam(summed_loss=False),
    schedule=Schedule(epochs=4, batch_size=128, peak=0.25),
    evaluate_every=NEVER,
)
SETTINGS = {
    "dense": _DENSE,
    "conv7": _DENSE.replace(model="conv7", epochs=1, batch_size=50),
    "conv6": _DENSE.replace(
        network=PaperNetwork(model="conv6_32"),
        dataset="cifar10",
        pixels="standardised",
        label_smoothing=0.2,
        epochs=2,
        batch_size=250,
    ),
}
"""What is trained, by name: 784-128-64-10 and conv7 on MNIST, conv6 on CIFAR-10. The rate rises for
a quarter of the steps, and falls to 0."""

PERIODS = (1, 2, 5, 10, 20, 50, 200, 1000)
INNER: dict[str, tuple[Method, tuple[float, ...]]] = {
    "adam": (Adam(summed_loss=False), (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)),
    "momentum": (SGD(momentum=0.9), (5e-3, 0.02, 0.05, 0.1, 0.2, 0.5)),
}
"""The inner methods and their rates."""


def grid(network: str, inner: str) -> Iterator[Settings]:
    """The inner method alone, then LaPerm at each period, and with latent weights; at each rate."""
    method, rates = INNER[inner]
    last_step = steps(SETTINGS[network])
    around = [LaPerm(inner=method, sync_period=k) for k in PERIODS if k <= last_step]
    latent = LaPerm(inner=method, sync_period=1, latent_weights=True)
    for each in (method, *around, latent):
        for rate in rates:
            yield SETTINGS[network].replace(method=each, learning_rate=rate)


class Travel(Watch):
    """Measures the travel once, where the rate is highest, as `measured["travel"]`.

    The last step of a period is not seen before it is synchronised: the distance after all steps
    but one is what is measured, so nothing for a period of one step.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._period, self._peak = settings.method.period or 0, settings.schedule.peak or 0
        self.periods = (1,) if self._period > 1 else ()  # else steps may run together
        self._before: list[np.ndarray] = []
        self._travel: float | None = None

    def begin(self, images: Images, last_step: int) -> None:
        if self._period > 1:
            self._from = -(-round(self._peak * last_step) // self._period) * self._period

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if self._period < 2 or self._travel is not None:
            return
        step = steps_taken(self.model)
        if step == self._from:
            self._before = weight_vectors.matrices(self.model)
        if step == self._from + self._period - 1 and self._before:
            moved = [
                np.abs(now - before).mean(axis=1) * before.shape[1] / np.ptp(before, axis=1)
                for now, before in zip(
                    weight_vectors.matrices(self.model), self._before, strict=True
                )
            ]
            self._travel = float(np.mean(np.concatenate(moved)))

    def measured(self) -> dict[str, Any]:
        return {"travel": self._travel}


def train(settings: Settings, seed: int, **how: Any) -> Record:
    """Train with these settings, and measure the travel."""
    return run(settings, seed=seed, watches=[Travel(settings)], **how)


def accuracies(records: Iterable[Record]) -> pd.DataFrame:
    """Accuracies on the images held out, 0 to 1: a row for each period, a column for each rate."""
    rows = [
        {
            "period": _name(record.settings.method),
            "rate": record.settings.schedule.learning_rate,
            "accuracy": record.final_held_out,
        }
        for record in records
    ]
    return pd.DataFrame(rows).pivot_table("accuracy", "period", "rate", sort=False)


def _name(method: Method) -> str:
    if not isinstance(method, LaPerm):
        return "alone"
    return "latent" if method.latent_weights else str(method.sync_period)


def lost(records: Iterable[Record]) -> pd.DataFrame:
    """What each period loses against the best one at the same rate, beside its travel.

    Returns:
        A row for each training by LaPerm whose travel was measured, with "period", "rate", "travel"
        in gaps, and "lost", the accuracy on the images held out that is missing, 0 to 1.
    """
    rows = [
        {
            "period": record.settings.method.period,
            "rate": record.settings.schedule.learning_rate,
            "travel": record.measured["travel"],
            "accuracy": record.final_held_out,
        }
        for record in records
        if isinstance(record.settings.method, LaPerm)
        and not record.settings.method.latent_weights
        and np.isfinite(record.final_held_out or np.nan)
    ]
    table = pd.DataFrame(rows)
    table["lost"] = table.groupby("rate")["accuracy"].transform("max") - table.pop("accuracy")
    return table.dropna(subset="travel").reset_index(drop=True)


def epochs_to(record: Record, accuracy: float) -> float | None:
    """After how many epochs a synchronised network had an accuracy on the images held out, 0 to 1.

    None if no evaluation found it.
    """
    per_epoch = steps(record.settings) / record.settings.schedule.epochs
    reached = [
        evaluation.step / per_epoch
        for evaluation in record.evaluations
        if evaluation.since_sync == 0 and (evaluation.held_out or 0) >= accuracy
    ]
    return min(reached, default=None)


def write(folder: str | os.PathLike[str], *, verbose: int = 1) -> None:
    """Train whatever is missing with seed 0, and write each record as soon as it is there."""
    for network in SETTINGS:
        for inner in INNER:
            name = f"sync_period_{network}_{inner}"
            planned = [(settings, 0) for settings in grid(network, inner)]
            path, one = Path(folder, f"{name}.json"), partial(train, experiment=name)
            complete(path, planned, one, verbose=verbose)
