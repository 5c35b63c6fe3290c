"""Training a network of an experiment, and measuring it on the way.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from laperm_lib import datasets, models, sparsity
from laperm_lib.batches import Batches
from laperm_lib.experiments.hyperparameters import Hyperparameters
from laperm_lib.optimizers.laperm import LaPerm

_log = logging.getLogger(__name__)

# Callbacks and Python see only every so many steps; the device runs those in between by itself.
_MOST_STEPS_PER_EXECUTION = 50
_EVALUATION_BATCH = 2000


@dataclass(frozen=True)
class Evaluation:
    """Test accuracy after a step.

    Args:
        step: training steps taken.
        since_sync: how many of them since the last synchronisation; 0 is a permutation of the
            initial weights, anything else is not.
        accuracy: on all test images, 0 to 1.
    """

    step: int
    since_sync: int
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What is measured of a training.

    Args:
        hyperparameters: the settings.
        seed: the seed.
        fraction_pruned: the share of kernel weights that are zero, 0 to 1.
        evaluations: test accuracies, in the order of steps.
        final: test accuracy of the synchronised network at the end, 0 to 1.
        is_permutation: whether that network is bitwise a permutation of its start.
        seconds: wall time of training and evaluating.
        data_fingerprint: SHA-256 of the dataset, as `laperm_lib.datasets.load` gives it.
    """

    hyperparameters: Hyperparameters
    seed: int
    fraction_pruned: float
    evaluations: tuple[Evaluation, ...]
    final: float
    is_permutation: bool
    seconds: float
    data_fingerprint: str

    def best(self, since_sync: int = 0) -> float:
        """The best test accuracy at any evaluation so long after a synchronisation.

        The published protocol picks networks by it. It is an optimistic number: the test images
        chose the step.

        Raises:
            ValueError: if there was no such evaluation.
        """
        found = [e.accuracy for e in self.evaluations if e.since_sync == since_sync]
        if not found:
            raise ValueError(f"No evaluation {since_sync} steps after a synchronisation.")
        return max(found)


@dataclass(frozen=True)
class Run(Outcome):
    """A training just done: its outcome, and the network.

    Args:
        model: the trained network, synchronised.
    """

    model: keras.Model


def run(
    settings: Hyperparameters,
    *,
    seed: int,
    data_dir: str | None = None,
    evaluate_after: Sequence[int] = (0,),
    verbose: int = 0,
) -> Run:
    """Train a network of one shared weight value by permutation.

    The loss is summed over the batch, as in the published code, and so is the L2 term added to it.

    Args:
        settings: the hyperparameters.
        seed: an integer of at least 0; it decides the mask, the initial values and the order of the
            images.
        data_dir: where the dataset lies. Default: as `laperm_lib.datasets.load`.
        evaluate_after: after how many steps from each synchronisation the test accuracy is
            measured, each from 0 (right after it) to the sync period minus 1.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The `Run`.

    Raises:
        ValueError: for an impossible hyperparameter, seed or `evaluate_after`.
        DatasetUnavailableError: if the data cannot be had.
    """
    offsets = sorted(set(evaluate_after))
    if not all(0 <= offset < settings.sync_period for offset in offsets):
        raise ValueError(
            f"evaluate_after={offsets} does not fit a period of {settings.sync_period}."
        )
    data = datasets.load(settings.dataset, data_dir)
    x_train, x_test = models.preprocess(settings.model, data)
    model = models.build(settings.model, seed=seed)
    pruned = sparsity.agnosticize(model, settings.shared_value, settings.keep, seed=seed)
    batches = Batches(
        x_train, data.y_train, batch_size=settings.batch_size, epochs=settings.epochs, seed=seed
    )
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings.learning_rate, batches.steps_per_epoch, settings.decay, staircase=True
    )
    optimizer = LaPerm(keras.optimizers.Adam(rate), settings.sync_period)
    # The network has no random layers; this seeds whatever Keras may draw all the same.
    keras.utils.set_random_seed(seed % 2**32)
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
        steps_per_execution=_steps_per_execution(settings.sync_period, offsets),
    )
    evaluate = _Evaluate(x_test, data.y_test, settings.sync_period, offsets)
    started = time.perf_counter()
    model.fit(batches, epochs=1, shuffle=False, verbose=verbose, callbacks=[evaluate])
    result = Run(
        hyperparameters=settings,
        seed=seed,
        fraction_pruned=pruned.fraction_pruned,
        evaluations=tuple(evaluate.evaluations),
        final=accuracy(model, x_test, data.y_test),
        is_permutation=optimizer.is_permutation(),
        seconds=round(time.perf_counter() - started, 2),
        data_fingerprint=data.fingerprint,
        model=model,
    )
    _log.info("%s, seed %d: final test accuracy %.4f", settings.model, seed, result.final)
    return result


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose largest logit is that of their class.

    Args:
        model: gives logits, shape (n, classes).
        x: images, shape (n, ...).
        y: classes, integers of shape (n,).

    Returns:
        A number from 0 to 1.
    """
    correct = 0
    for first in range(0, len(x), _EVALUATION_BATCH):
        part = slice(first, first + _EVALUATION_BATCH)
        logits = keras.ops.convert_to_numpy(model(x[part], training=False))
        correct += int((logits.argmax(axis=1) == y[part]).sum())
    return correct / len(x)


class _Evaluate(keras.callbacks.Callback):
    """Measures the test accuracy so many steps after each synchronisation."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, sync_period: int, offsets: Sequence[int]
    ) -> None:
        super().__init__()
        self.evaluations: list[Evaluation] = []
        self._x, self._y = x, y
        self._sync_period, self._offsets = sync_period, offsets

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        # Not from `batch`: in a last, shorter execution Keras counts it beyond the end.
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        since_sync = step % self._sync_period
        if step >= self._sync_period and since_sync in self._offsets:
            measured = accuracy(self.model, self._x, self._y)
            self.evaluations.append(Evaluation(step, since_sync, measured))


def _steps_per_execution(sync_period: int, offsets: Sequence[int]) -> int:
    """The most steps at once whose ends include every evaluation; torch takes only one."""
    if keras.backend.backend() == "torch":
        return 1
    common = int(np.gcd.reduce([sync_period, *offsets]))
    return max(n for n in range(1, _MOST_STEPS_PER_EXECUTION + 1) if common % n == 0)
