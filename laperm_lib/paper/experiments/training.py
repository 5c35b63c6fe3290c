"""Training a network of an experiment with Keras's `fit`, measuring it on the way, never losing it.

References:
    Qiu and Suda, NeurIPS 2020, section 5.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras

from laperm_lib import batch_statistics
from laperm_lib.batches import Batches
from laperm_lib.checkpoints import Checkpoints, SaveCheckpoints, restore
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.paper.experiments import evaluation, fitting
from laperm_lib.paper.experiments.environment import environment, joined
from laperm_lib.paper.experiments.evaluation import Evaluation, Images
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.outcome import Run
from laperm_lib.paper.experiments.rates import EpochRates
from laperm_lib.paper.experiments.stopping import StopCheck, Stopped, StopWhenAsked, never
from laperm_lib.paper.initial_network import InitialNetwork

_log = logging.getLogger(__name__)

# So many images give a mean to 1.4 % of a standard deviation, or better where each has many places.
_REESTIMATION_IMAGES = 5000
_REESTIMATION_BATCH = 500


@dataclass(frozen=True)
class Start:
    """A training before its first step.

    Args:
        settings: the hyperparameters.
        seed: the seed.
        model: built, pruned, and compiled with the optimizer.
        images: the data, preprocessed.
        fraction_pruned: the share of kernel weights that are zero, 0 to 1.
        evaluation_steps: when it is evaluated, as `laperm_lib.paper.experiments.evaluation.schedule`
            says.
        environment: versions, hardware and code revision, of this process.
    """

    settings: Hyperparameters
    seed: int
    model: keras.Model
    images: Images
    fraction_pruned: float
    evaluation_steps: dict[int, int]
    environment: dict[str, str]

    @property
    def steps_per_epoch(self) -> int:
        """How many steps go once through the training images."""
        return -(-len(self.images.x_train) // self.settings.batch_size)

    def batches(self, first_step: int = 0) -> Batches:
        """The batches from a step on."""
        return Batches(
            self.images.x_train,
            self.images.y_train,
            batch_size=self.settings.batch_size,
            epochs=self.settings.epochs,
            seed=self.seed,
            augmentation=self.settings.augmentation,
            first_step=first_step,
        )

    def fit(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        first_step: int = 0,
        verbose: int = 0,
    ) -> None:
        """Train with Keras's `fit` to the end, or until a callback stops it.

        Args:
            callbacks: what looks on.
            first_step: the step to go on from. Default 0.
            verbose: 1 shows Keras's progress bar, 0 (the default) nothing.
        """
        fitting.fit(self.model, self.batches(first_step), callbacks, verbose=verbose)

    def outcome(
        self, evaluations: Sequence[Evaluation], seconds: float, environment: dict[str, str]
    ) -> Run:
        """What has come out, when the training is over and the network synchronised."""
        optimizer = self.model.optimizer
        sample = self.images.x_train[:_REESTIMATION_IMAGES]
        parts = range(0, len(sample), _REESTIMATION_BATCH)
        batches = [sample[first:][:_REESTIMATION_BATCH] for first in parts]
        with batch_statistics.reestimated(self.model, batches) as layers:
            reestimated = self._test_accuracy() if layers else None
        last = self.images.evaluate(
            self.model, self.settings.epochs * self.steps_per_epoch, since_sync=0
        )
        return Run(
            hyperparameters=self.settings,
            seed=self.seed,
            fraction_pruned=self.fraction_pruned,
            evaluations=tuple(evaluations),
            final=last.accuracy,
            final_reestimated=reestimated,
            final_held_out=last.held_out,
            is_permutation=isinstance(optimizer, LaPerm) and optimizer.is_permutation(),
            seconds=round(seconds, 2),
            data_fingerprint=self.images.fingerprint,
            model=self.model,
            environment=environment,
        )

    def _test_accuracy(self) -> float:
        return evaluation.accuracy(self.model, self.images.x_test, self.images.y_test)


def start(
    settings: Hyperparameters,
    *,
    seed: int,
    data_dir: str | None = None,
    evaluate_after: Sequence[int] = (0,),
    images: Images | None = None,
    first_step: int = 0,
) -> Start:
    """Load the data of an experiment, and build and compile its network.

    The published loss is summed over the batch, the L2 term as often as the batch has images, which
    makes gradients `batch_size` times as large as those of the mean. Adam's steps do not depend on
    the scale of the gradients but through epsilon, so here the mean is taken, and epsilon divided
    by the batch size.

    Args:
        settings: the hyperparameters.
        seed: an integer of at least 0; it decides the initial weights, the mask, the order of the
            images, their augmentation, and dropout. The images held out are the same for each.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        evaluate_after: as for `run`.
        images: the data, where it has been loaded. Default: it is loaded.
        first_step: the step that `fit` will go on from. Default 0.

    Returns:
        The `Start`.

    Raises:
        ValueError: for an impossible hyperparameter, seed or `evaluate_after`.
        DatasetUnavailableError: if the data cannot be had.
    """
    images = images or evaluation.images_for(settings, data_dir)
    steps_per_epoch = -(-len(images.x_train) // settings.batch_size)
    evaluation_steps = evaluation.schedule(
        settings, settings.epochs * steps_per_epoch, evaluate_after
    )
    model, report = initial_network(settings, seed).build()
    rates = EpochRates(map(settings.rate, range(settings.epochs)), steps_per_epoch)
    optimizer = keras.optimizers.Adam(rates, epsilon=1e-7 / settings.batch_size)
    if settings.sync_period is not None:
        optimizer = LaPerm(optimizer, settings.sync_period, skip_bias=not settings.permute_biases)
    # Dropout has seeds of its own; this seeds whatever else Keras may draw.
    keras.utils.set_random_seed(seed % 2**32)
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Counted from the first step, so it has to be among those that executions end with.
        steps_per_execution=fitting.steps_per_execution([first_step, *evaluation_steps]),
    )
    return Start(
        settings,
        seed,
        model,
        images,
        report.fraction_pruned,
        evaluation_steps,
        dict(environment()),
    )


def initial_network(settings: Hyperparameters, seed: int) -> InitialNetwork:
    """How the network of a training starts.

    Args:
        settings: the hyperparameters.
        seed: the seed.
    """
    return InitialNetwork(
        model=settings.model,
        seed=seed,
        initializer=settings.initializer,
        pruned=settings.pruned,
        shared_value=settings.shared_value,
        keep=settings.keep,
        constant_fan_in=settings.constant_fan_in,
        precision=settings.precision,
    )


def run(
    settings: Hyperparameters,
    *,
    seed: int,
    data_dir: str | None = None,
    evaluate_after: Sequence[int] = (0,),
    checkpoints: Checkpoints | None = None,
    every_seconds: float = 60,
    stop: StopCheck = never,
    verbose: int = 0,
) -> Run:
    """Train a network of an experiment, by permutation or by Adam alone.

    Args:
        settings: the hyperparameters.
        seed: as for `start`.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        evaluate_after: after how many steps from a synchronisation the test accuracy is measured,
            each from 0 (right after it) to the sync period minus 1. Default: 0 alone.
        checkpoints: where checkpoints are kept; a training that was cut goes on from its latest,
            and ends, on the same machine, bit for bit as if it had not been. Default: none are.
        every_seconds: the time between two checkpoints, in seconds. Default 60.
        stop: asked after steps; when it says yes, a checkpoint is written and training stops.
            Default: never.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The `Run`.

    Raises:
        ValueError: for an impossible hyperparameter, seed or `evaluate_after`.
        DatasetUnavailableError: if the data cannot be had.
        WeightFileError: if the checkpoint is of another network.
        Stopped: if `stop` said so.
    """
    latest = None if checkpoints is None else checkpoints.latest()
    first_step = 0 if latest is None else latest.step
    begun = start(
        settings,
        seed=seed,
        data_dir=data_dir,
        evaluate_after=evaluate_after,
        first_step=first_step,
    )
    keeping = _Progress(begun)
    callbacks: list[keras.callbacks.Callback] = [keeping]
    if latest is not None:
        restore(begun.model, latest.arrays)
        keeping.take_up(latest.notes)
        _log.info("%s, seed %d: goes on after step %d", settings.model, seed, first_step)
    if checkpoints is not None:
        # Behind the evaluation of the same step, so that it is in the notes.
        callbacks.append(
            SaveCheckpoints(checkpoints, every_seconds=every_seconds, notes=keeping.notes)
        )
    stopping = StopWhenAsked(stop, checkpoints, keeping.notes)
    callbacks.append(stopping)
    if first_step < settings.epochs * begun.steps_per_epoch:
        begun.fit(callbacks, first_step=first_step, verbose=verbose)
        if stopping.has_stopped:
            raise Stopped
    elif isinstance(begun.model.optimizer, LaPerm):  # cut after its last step
        begun.model.optimizer.synchronise()
    result = begun.outcome(keeping.evaluations, keeping.seconds(), keeping.environment)
    _log.info("%s, seed %d: final test accuracy %.4f", settings.model, seed, result.final)
    return result


class _Progress(keras.callbacks.Callback):
    """The evaluations made so far, the time taken and where, over all cuts."""

    def __init__(self, begun: Start) -> None:
        super().__init__()
        self.evaluations: list[Evaluation] = []
        self.environment = begun.environment
        self._start = begun
        self._since = time.perf_counter()

    def take_up(self, notes: dict[str, Any]) -> None:
        self.evaluations = [Evaluation(**entry) for entry in notes["evaluations"]]
        self._since -= notes["seconds"]
        self.environment = joined(notes["environment"], self.environment)

    def seconds(self) -> float:
        return time.perf_counter() - self._since

    def notes(self) -> dict[str, Any]:
        return {
            "evaluations": [asdict(entry) for entry in self.evaluations],
            "seconds": self.seconds(),
            "environment": self.environment,
        }

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        step = steps_taken(self.model)
        if step in self._start.evaluation_steps:
            since_sync = self._start.evaluation_steps[step]
            self.evaluations.append(self._start.images.evaluate(self.model, step, since_sync))
