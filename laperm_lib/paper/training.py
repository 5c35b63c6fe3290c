"""Training a network with Keras's `fit`: built, compiled, measured on the way, and never lost.

`run` is the one function here that compiles and fits. Studies give it a method, or a `Watch` that
measures something beside.

References:
    Qiu and Suda, NeurIPS 2020, section 5.
"""

import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

import keras

from laperm_lib import _backend, batch_statistics, permutation, weight_vectors
from laperm_lib._random import check_seed
from laperm_lib.batches import Batches, read_ahead
from laperm_lib.checkpoints import Checkpoints, SaveCheckpoints, restore
from laperm_lib.errors import LaPermError, NonFiniteWeightError, WeightFileError
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.paper.environment import environment, joined
from laperm_lib.paper.evaluation import Images, accuracy, images_for, schedule
from laperm_lib.paper.methods import Length
from laperm_lib.paper.networks import whiten
from laperm_lib.paper.records import Evaluation, Record, to_json
from laperm_lib.paper.settings import Settings

_log = logging.getLogger(__name__)

# So many images give a mean to 1.4 % of a standard deviation, or better where each has many places.
_STATISTICS_IMAGES = 5000
# Callbacks and Python see only every so many steps; the device runs those in between by itself.
_MOST_STEPS_PER_EXECUTION = 50

StopCheck = Callable[[], bool]
"""Asked after training steps; when it says yes, a checkpoint is written and training stops."""


class Stopped(Exception):
    """A training was asked to stop, and has; it can be resumed from its checkpoint."""


def never() -> bool:
    """The `StopCheck` of a training that runs to its end."""
    return False


class Stop:
    """When trainings are to stop: after some seconds (default: never), or once asked to."""

    def __init__(self, after: float | None = None) -> None:
        self._end = float("inf") if after is None else time.monotonic() + after
        self.signal: int | None = None
        self._asked = False

    def __call__(self) -> bool:
        return self._asked or time.monotonic() >= self._end

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT (Ctrl-C) and SIGTERM as asking; the second one interrupts at once."""

        def asked(number: int, frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked, self.signal = True, number
            # Not by print: the signal may have come in the middle of one.
            text = b"\nlaperm_lib: stops after the next checkpoint; asked again, at once.\n"
            with suppress(OSError):  # no descriptor
                os.write(sys.stderr.fileno(), text)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, asked) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


class Watch(keras.callbacks.Callback):
    """Measures something during a run, for its record: the base of what studies add.

    `periods` are the steps whose multiples it has to see; `before` are callbacks that are called
    before it.
    """

    periods: Sequence[int] = ()
    before: Sequence[keras.callbacks.Callback] = ()

    def begin(self, images: Images, last_step: int) -> None:
        """Called before `fit`, with the model set."""

    def measured(self) -> dict[str, Any]:
        """What goes into `Record.measured`, after `fit`."""
        return {}


def steps_per_execution(ends: Iterable[int] = ()) -> int:
    """How many steps to hand to the device at once, of which `ends` are all multiples."""
    if _backend.torch() is not None:
        return 1
    common = math.gcd(*ends)
    return max(n for n in range(1, _MOST_STEPS_PER_EXECUTION + 1) if common % n == 0)


def run(
    settings: Settings,
    *,
    seed: int,
    experiment: str = "",
    data_dir: str | None = None,
    evaluate_after: Sequence[int] = (0,),
    watches: Sequence[Watch] = (),
    checkpoints: Checkpoints | None = None,
    every_seconds: float = 60,
    stop: StopCheck = never,
    began: float | None = None,
    verbose: int = 0,
) -> Record:
    """Train a network and measure it.

    Args:
        settings: what to train, on what, how and how long.
        seed: an integer of at least 0, of initial weights, masks and the order of images.
        experiment: its name, for the record. Default: none.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        evaluate_after: how many steps after a synchronisation the test accuracy is measured, each
            from 0 (right after it) to the sync period minus 1. Default: 0 alone.
        watches: what is measured beside. Default: nothing.
        checkpoints: where checkpoints are kept; an interrupted training resumes from its latest,
            and ends, on the same machine, bit for bit as an uninterrupted one. What the training is
            goes into `checkpoints.about`. Default: none are.
        every_seconds: the time between two checkpoints. Default 60.
        stop: asked after steps; when it says yes, a checkpoint is written and training stops.
            Default: never.
        began: from when its seconds are counted, as `time.perf_counter()` has it. Default: now.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Returns:
        The record, with the trained network as its `model`.

    Raises:
        ValueError: for an impossible setting, seed or `evaluate_after`.
        DatasetUnavailableError: if the data cannot be had.
        WeightFileError: if the latest checkpoint is from another training, or of another format.
        Stopped: if `stop` said so.

    Examples:
        >>> from laperm_lib.paper.settings import quick
        >>> record = run(quick("f1").replace(epochs=2), seed=0)
        >>> record.is_permutation
        True
    """
    began = time.perf_counter() if began is None else began
    images = images_for(settings, data_dir)
    latest = None
    if checkpoints is not None:
        checkpoints.about = {
            "experiment": experiment,
            "settings": to_json(settings),
            "seed": check_seed(seed),
            "evaluate_after": [int(steps) for steps in evaluate_after],
            "data": images.fingerprint,
        }
        latest = checkpoints.latest()
    first_step = 0 if latest is None else latest.step
    batches = Batches(
        images.x_train,
        images.y_train,
        batch_size=settings.schedule.batch_size,
        epochs=settings.schedule.epochs,
        seed=seed,
        augmentation=settings.data.augmentation,
        first_step=first_step,
    )
    epochs, steps_per_epoch = settings.schedule.epochs, batches.steps_per_epoch
    evaluation_steps = schedule(settings, epochs * steps_per_epoch, evaluate_after)
    statistics = images.for_statistics(_STATISTICS_IMAGES)

    model, report = settings.network.build(seed)
    whiten(model, images.x_train)
    initial = weight_vectors.matrices(model, settings.method.permuted)
    settings.method.prepare(model)
    averages = settings.method.callbacks(statistics[:2])  # for each of many averages
    # Dropout has seeds of its own; this seeds whatever else Keras may draw.
    keras.utils.set_random_seed(seed % 2**32)
    rates, batch_size = settings.schedule.rates(steps_per_epoch), settings.schedule.batch_size
    optimizer = settings.method.optimizer(Length(rates, epochs, steps_per_epoch, batch_size, seed))
    seen = [first_step, *evaluation_steps]
    seen += [period for watch in watches for period in watch.periods]
    seen += [average.sample_period for average in averages]
    model.compile(
        optimizer,
        loss=_Loss(settings.data.label_smoothing),
        steps_per_execution=steps_per_execution(seen),
    )
    # Built in the first step, an optimizer makes TensorFlow trace it twice, a second or more.
    optimizer.build(model.trainable_variables)

    progress = _Progress(images, evaluation_steps, began)
    if checkpoints is not None and latest is not None:
        try:
            restore(model, latest.arrays)
            if steps_taken(model) != first_step:
                raise WeightFileError(f"The optimizer has counted {steps_taken(model)} steps.")
        except WeightFileError as error:
            raise WeightFileError(f"{checkpoints.path(first_step)}: {error}") from None
        progress.resume(latest.notes)
        _log.info("%s, seed %d: resumes after step %d", model.name, seed, first_step)
    for watch in watches:
        watch.set_model(model)
        watch.begin(images, epochs * steps_per_epoch)
    # Averages take their samples before a step is measured, and checkpoints hold its measurements.
    beside = [callback for watch in watches for callback in (*watch.before, watch)]
    callbacks = [*averages, *beside, progress]
    saving = None
    if checkpoints is not None:
        saving = SaveCheckpoints(checkpoints, every_seconds=every_seconds, notes=progress.notes)
        callbacks.append(saving)
    stopping = _StopWhenAsked(stop, saving)
    if first_step < epochs * steps_per_epoch:
        with closing(batches), _errors_of_ours():
            model.fit(
                read_ahead(batches),
                epochs=1,
                shuffle=False,
                verbose=verbose,
                callbacks=[*callbacks, stopping],
            )
        if stopping.has_stopped:
            raise Stopped
    else:  # interrupted after its last step
        optimizer.finalize_variable_values(model.trainable_variables)

    with batch_statistics.reestimated(model, statistics) as layers:
        reestimated = accuracy(model, images.x_test, images.y_test) if layers else None
    last = images.evaluate(model, epochs * steps_per_epoch, since_sync=0)
    measured = {name: value for watch in watches for name, value in watch.measured().items()}
    if settings.data.augmentation is not None and settings.data.augmentation.flip:
        measured["flipped"] = accuracy(model, *images.to_choose_by(), flip=True)
    record = Record(
        experiment=experiment,
        settings=settings,
        seed=seed,
        fraction_pruned=report.fraction_pruned,
        evaluations=tuple(progress.evaluations),
        final=last.accuracy,
        final_reestimated=reestimated,
        final_held_out=last.held_out,
        is_permutation=permutation.are_permutations(
            initial, weight_vectors.matrices(model, settings.method.permuted)
        ),
        data_fingerprint=images.fingerprint,
        seconds=round(progress.seconds(), 2),
        environment=progress.environment,
        measured=measured,
        model=model,
    )
    _log.info("%s, seed %d: final test accuracy %.4f", model.name, seed, last.accuracy)
    return record


class _Loss(keras.losses.SparseCategoricalCrossentropy):
    """The cross-entropy of logits; a share of each target may be spread over all classes."""

    def __init__(self, label_smoothing: float) -> None:
        super().__init__(from_logits=True)
        self._spread = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        loss = super().call(y_true, y_pred)
        if not self._spread:
            return loss
        everywhere = -keras.ops.mean(keras.ops.log_softmax(y_pred), axis=-1)
        return (1 - self._spread) * loss + self._spread * everywhere


@contextmanager
def _errors_of_ours() -> Iterator[None]:
    """Raise what a compiled step has raised, without the pages that TensorFlow puts around it."""
    try:
        yield
    except Exception as error:
        inner = re.search(r"(?:laperm_lib\.errors\.\w+: )?(\S.*)\s+\[\[\{\{node", str(error))
        if inner is None:
            raise
        is_nan = NonFiniteWeightError.__name__ in str(error)
        raise (NonFiniteWeightError if is_nan else LaPermError)(inner[1]) from None


class _Progress(keras.callbacks.Callback):
    """The evaluations so far, the time taken and where, over all interruptions."""

    def __init__(self, images: Images, evaluation_steps: dict[int, int], began: float) -> None:
        super().__init__()
        self.evaluations: list[Evaluation] = []
        self.environment = dict(environment())
        self._images, self._evaluation_steps = images, evaluation_steps
        self._since = began

    def resume(self, notes: dict[str, Any]) -> None:
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
        model = self.model  # on JAX, asking for it gives the model its state back
        step = steps_taken(model)
        if step in self._evaluation_steps:
            since_sync = self._evaluation_steps[step]
            self.evaluations.append(self._images.evaluate(model, step, since_sync))


class _StopWhenAsked(keras.callbacks.Callback):
    """Stops `fit` after a step, with a checkpoint, when it is told to."""

    def __init__(self, stop: StopCheck, saving: SaveCheckpoints | None) -> None:
        super().__init__()
        self.has_stopped = False
        self._stop, self._saving = stop, saving

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if not self._stop():
            return
        if self._saving is not None:
            try:
                self._saving.save()
            except OSError as error:
                _log.warning("Stops without a new checkpoint: %s", error)
        # What fit still does, a synchronisation, comes after the checkpoint and is thrown away.
        self.model.stop_training = self.has_stopped = True
