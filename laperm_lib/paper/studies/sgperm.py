"""Training a network of the paper by SGPerm alone: settings of our own, runs and their records.

The network is that of F2, dense layers 784-128-64-10 without biases, with He-uniform weights in the
place of a single value. The records in the folder `pretrained` are made by::

    python -c "from laperm_lib.paper.studies import sgperm; sgperm.write('pretrained')"

References:
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (versions 1 to 4).
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from laperm_lib import weight_vectors
from laperm_lib.cycles.step import CycleSearch
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.optimizers.sgperm import SGPerm
from laperm_lib.paper.experiments.evaluation import Evaluation
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters, SGPermHyperparameters
from laperm_lib.paper.experiments.outcome import Run
from laperm_lib.paper.experiments.publishing import publish_first
from laperm_lib.paper.experiments.rates import EpochRates
from laperm_lib.paper.experiments.records import record, save
from laperm_lib.paper.experiments.training import Start, start
from laperm_lib.paper.experiments.training import run as run_beside
from laperm_lib.permutation import is_permutation

_log = logging.getLogger(__name__)

SETTINGS = SGPermHyperparameters(
    model="f2",
    dataset="mnist",
    epochs=10,
    batch_size=128,
    held_out=5000,
    evaluate_every=100,
    rearrangement=CycleSearch(
        alpha0=0.03,
        alpha_min=0.0,
        beta1=0.999,
        lambda0=0.03,
        lambda_max=1.0,
        beta2=1.0006,
        momentum=0.99,
        partition_size_min=10,
        seed=0,
    ),
)
"""Settings for MNIST, chosen by the accuracy on training images held out, with seed 0."""

_LAPERM = Hyperparameters(
    model=SETTINGS.model,
    dataset=SETTINGS.dataset,
    epochs=SETTINGS.epochs,
    sync_period=20,
    batch_size=SETTINGS.batch_size,
    decay=0.95,
    held_out=SETTINGS.held_out,
    evaluate_every=100,
)
BESIDE = {"sgperm_laperm": _LAPERM, "sgperm_adam": replace(_LAPERM, sync_period=None)}
"""The same network from the same weights on the same batches, by LaPerm and by Adam, with the
learning rates that the paper has for F2. The sync period was chosen as the settings were, among
20, 100, 250, 500 and 1000."""


def run(
    settings: SGPermHyperparameters = SETTINGS,
    *,
    seed: int,
    data_dir: str | None = None,
    verbose: int = 0,
) -> Run:
    """Train a network by permuting it in every step.

    Args:
        settings: the hyperparameters. Default: `SETTINGS`.
        seed: an integer of at least 0; it decides the initial weights, the order of the images, and
            the random parts. The images held out are the same for each.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The `Run`. Its `is_permutation` says that at every evaluation and at the end each weight
        vector was bitwise a permutation of its start.

    Raises:
        ValueError: for an impossible hyperparameter or seed.
        DatasetUnavailableError: if the data cannot be had.
    """
    begun = start(settings, seed=seed, data_dir=data_dir)
    optimizer = SGPerm(
        **asdict(replace(settings.rearrangement, seed=seed)),
        momentum_learning_rate=EpochRates(
            map(settings.rate, range(settings.epochs)), begun.steps_per_epoch
        ),
        skip_bias=not settings.permute_biases,
    )
    model = begun.model
    model.compile(optimizer, loss=model.loss, steps_per_execution=model.steps_per_execution)
    watch = _Watch(begun)
    since = time.perf_counter()
    begun.fit([watch], verbose=verbose)
    result = begun.outcome(watch.evaluations, time.perf_counter() - since, begun.environment)
    _log.info("%s by SGPerm, seed %d: test accuracy %.4f", settings.model, seed, result.final)
    return replace(result, is_permutation=watch.was_permutation and watch.is_permutation())


def write(folder: str, seeds: Iterable[int] = (0, 1, 2)) -> None:
    """Train with `SETTINGS`, and with those `BESIDE` it, once for each seed; write what came out.

    Args:
        folder: where to put "sgperm.json", "sgperm_laperm.json" and "sgperm_adam.json", to be read
            by `laperm_lib.paper.experiments.load`, and the network of the first seed, as
            `laperm_lib.paper.experiments.publishing.publish` does.
        seeds: the seeds, at least one. Default: 0, 1 and 2.
    """
    seeds = list(seeds)
    publish_first("sgperm", (run(seed=seed) for seed in seeds), folder)
    for name, settings in BESIDE.items():
        records = [record(name, run_beside(settings, seed=seed)) for seed in seeds]
        save(records, Path(folder, f"{name}.json"))


class _Watch(keras.callbacks.Callback):
    """Evaluates the network when that is due, and compares its weights with those at the start."""

    def __init__(self, begun: Start) -> None:
        super().__init__()
        self.evaluations: list[Evaluation] = []
        self.was_permutation = True
        self._start = begun
        self._initial = _matrices(begun.model)

    def is_permutation(self) -> bool:
        """Whether each weight vector holds the values that it started with, bit for bit."""
        now = _matrices(self._start.model)
        return all(map(is_permutation, self._initial, now))

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        step = steps_taken(self.model)
        if step in self._start.evaluation_steps:
            self.evaluations.append(self._start.images.evaluate(self.model, step, since_sync=0))
            self.was_permutation &= self.is_permutation()


def _matrices(model: keras.Model) -> list[np.ndarray]:
    kinds = weight_vectors.KINDS
    return [vectors.matrix() for vectors in weight_vectors.of(model, kinds)]
