r"""Training with and without averages of weight samples, by SGD, momentum, Adam and LaPerm.

Averages that training does not depend on (PWALKS, PSWM, SWA) are taken of one training and measured
beside it: they differ from it in nothing else. PSWA and Lookahead, from which training goes on, are
trainings of their own from the same weights on the same batches. With LaPerm, averages are measured
as they are and synchronised. The records in `pretrained/averaging` are made by::

    python -c "from laperm_lib.paper.studies.averaging import write; write('pretrained/averaging')"

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import batch_statistics, weight_vectors
from laperm_lib.batches import Batches
from laperm_lib.callbacks import PSWA, PSWM, PWALKS, SWA, Lookahead, sampling
from laperm_lib.callbacks.sampling import WeightSampler
from laperm_lib.errors import LaPermError
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.optimizers.permuting import steps_taken
from laperm_lib.paper.experiments import evaluation
from laperm_lib.paper.experiments.environment import environment
from laperm_lib.paper.experiments.evaluation import Images
from laperm_lib.paper.experiments.fitting import fit, steps_per_execution
from laperm_lib.paper.experiments.training import initial_network
from laperm_lib.paper.studies.averaging_results import SETTINGS, Result, Settings, load, save

_log = logging.getLogger(__name__)

METHODS = ("alone", "PSWA", "PSWA synchronised", "Lookahead")
"""The ways to train a network. Alone, with averages only measured beside it; going on from the
average of each window; the same, synchronised before it goes on; or by Lookahead."""

_WITHOUT_LAPERM = ("alone", "PSWA", "Lookahead")

_STATISTICS_IMAGES, _STATISTICS_BATCH = 1000, 500


def run(
    settings: Settings,
    *,
    seed: int,
    method: str = "alone",
    data_dir: str | None = None,
    verbose: int = 0,
) -> Result:
    """Train a network, and measure it and its averages at each evaluation.

    Args:
        settings: the settings.
        seed: an integer of at least 0.
        method: one of `METHODS`. Default: "alone".
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Raises:
        ValueError: for an impossible seed or method, or to synchronise without LaPerm.
        DatasetUnavailableError: if the data cannot be had.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}.")
    since = time.perf_counter()
    training = settings.training
    images = evaluation.images_for(training, data_dir)
    batches = Batches(
        images.x_train,
        images.y_train,
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=seed,
        augmentation=training.augmentation,
    )
    model, _ = initial_network(training, seed).build()
    statistics = _statistics_batches(images.x_train)
    samplers = _samplers(settings, method, len(batches), statistics)
    keras.utils.set_random_seed(seed % 2**32)
    model.compile(
        _optimizer(settings),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution(
            (
                training.evaluate_every,
                *(s.sample_period for s in samplers.values()),
                *(s.start for s in samplers.values()),
            )
        ),
    )
    watch = _Watch(settings, method, images, samplers, statistics, model)
    callbacks = [*samplers.values(), watch]  # evaluated behind the samples of the same step
    fit(model, batches, callbacks, verbose=verbose)
    _log.info("%s, %s, seed %d: %s", settings.optimizer, method, seed, watch.test)
    return Result(
        settings=settings,
        method=method,
        seed=seed,
        steps=tuple(watch.steps),
        curves={name: tuple(curve) for name, curve in watch.curves.items()},
        test=watch.test,
        permutation=watch.permutation,
        spread=watch.spread,
        seconds=round(time.perf_counter() - since, 2),
        data_fingerprint=images.fingerprint,
        environment=dict(environment()),
    )


def write(
    folder: str | os.PathLike[str],
    names: Iterable[str] = tuple(SETTINGS),
    seeds: Iterable[int] = range(5),
    *,
    data_dir: str | None = None,
    verbose: int = 0,
) -> None:
    """Run studies, and keep a file of results for each, such as "mnist_sgd.json".

    What the files hold already is not run again, so that a study which is cut can be taken up.

    Args:
        folder: where to.
        names: of `SETTINGS`. Default: all.
        seeds: the seeds. Default: 0 to 4.
        data_dir: where the datasets lie. Default: as `laperm_lib.paper.datasets.load`.
        verbose: as for `run`.

    Raises:
        LaPermError: if a file holds no results, or those of other settings.
    """
    seeds = list(seeds)
    for name in names:
        settings, path = SETTINGS[name], Path(folder, f"{name}.json")
        results = list(load(path)) if path.exists() else []
        if any(result.settings != settings for result in results):
            raise LaPermError(f"{path} holds results of other settings.")
        done = {(result.seed, result.method) for result in results}
        wanted = [(seed, method) for seed in seeds for method in methods(settings)]
        for seed, method in wanted:
            if (seed, method) not in done:
                keras.utils.clear_session()
                results.append(
                    run(settings, seed=seed, method=method, data_dir=data_dir, verbose=verbose)
                )
                save(results, path)


def methods(settings: Settings) -> tuple[str, ...]:
    """The methods that a study trains networks with these settings by.

    Examples:
        >>> methods(SETTINGS["digits_sgd"])
        ('alone', 'PSWA', 'Lookahead')
    """
    return METHODS[:3] if settings.training.sync_period is not None else _WITHOUT_LAPERM


def _optimizer(settings: Settings) -> keras.optimizers.Optimizer:
    rate = settings.training.learning_rate
    match settings.optimizer:
        case "adam":
            optimizer = keras.optimizers.Adam(rate)
        case "momentum":
            optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        case _:
            optimizer = keras.optimizers.SGD(rate)
    period = settings.training.sync_period
    return optimizer if period is None else LaPerm(optimizer, period)


def _samplers(
    settings: Settings, method: str, steps: int, statistics: list[np.ndarray]
) -> dict[str, WeightSampler]:
    """The callbacks of a method, by the names of their averages."""
    often: dict[str, Any] = {"sample_period": settings.sample_period, "batches": statistics}
    window = settings.window
    if method == "Lookahead":
        period = settings.lookahead_period
        return {method: Lookahead(sample_period=period, batches=statistics)}
    if method != "alone":
        synchronise = method == "PSWA synchronised"
        return {method: PSWA(window=window, synchronise=synchronise, **often)}
    every = settings.training.evaluate_every
    samplers: dict[str, WeightSampler] = {
        "PWALKS": PWALKS(window=window, **often),
        "PSWM": PSWM(momentum=settings.momentum, **often),
        "SWA": SWA(start=steps // 2 // every * every, **often),
    }
    if settings.training.sync_period is not None:
        # The others take samples at synchronisations, this one between them.
        between = settings.sample_period // 2
        samplers["PWALKS between"] = PWALKS(window=window, start=between, **often)
    return samplers


def _statistics_batches(x: np.ndarray) -> list[np.ndarray]:
    """Images to re-estimate the statistics of batch normalisation with."""
    parts = range(0, _STATISTICS_IMAGES, _STATISTICS_BATCH)
    return [x[first:][:_STATISTICS_BATCH] for first in parts]


class _Watch(keras.callbacks.Callback):
    """Measures the network in training, and averages beside it, whenever that is due."""

    def __init__(
        self,
        settings: Settings,
        method: str,
        images: Images,
        samplers: dict[str, WeightSampler],
        statistics: list[np.ndarray],
        model: keras.Model,
    ) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.curves: dict[str, list[float | None]] = {}
        self.test: dict[str, float] = {}
        self.permutation: dict[str, bool] = {}
        self.spread: dict[str, float] = {}
        self._settings, self._method, self._images = settings, method, images
        self._beside = samplers if method == "alone" else {}
        self._statistics, self._initial_spread = statistics, _spread(model)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        model = self.model
        step = steps_taken(model)
        if step % self._settings.training.evaluate_every:
            return
        for name, network in self._networks(model):
            with network:
                self._measure(name, model, is_last=step == self.params["steps"])
        self.steps.append(step)

    def _networks(self, model: keras.Model) -> Iterator[tuple[str, AbstractContextManager[None]]]:
        """The names of networks, and contexts in which the model is that network."""
        permuting = self._settings.training.sync_period is not None
        yield "training", nullcontext()
        weights = sampling.weights_of(model)
        if batch_statistics.normalizations(model):
            yield "training re-estimated", self._other(model, weights)
        if permuting and self._method == "PSWA":
            yield "training synchronised", self._other(model, weights, synchronise=True)
        for name, sampler in self._beside.items():
            if sampler.samples:
                yield name, self._other(model, sampler.average)
                if permuting:
                    yield f"{name} synchronised", self._other(model, sampler.average, True)

    def _other(
        self, model: keras.Model, weights: list[np.ndarray], synchronise: bool = False
    ) -> AbstractContextManager[None]:
        return sampling.replaced(model, weights, batches=self._statistics, synchronise=synchronise)

    def _measure(self, name: str, model: keras.Model, is_last: bool) -> None:
        images = self._images
        curve = self.curves.setdefault(name, [None] * len(self.steps))
        curve.append(evaluation.accuracy(model, images.x_held_out, images.y_held_out))
        if is_last:
            self.test[name] = evaluation.accuracy(model, images.x_test, images.y_test)
            self.spread[name] = round(_spread(model) / self._initial_spread, 4)
            if isinstance(model.optimizer, LaPerm):
                self.permutation[name] = model.optimizer.is_permutation()


def _spread(model: keras.Model) -> float:
    """The standard deviation of all kernel weights."""
    kernels = [vectors.matrix().ravel() for vectors in weight_vectors.of(model)]
    return float(np.std(np.concatenate(kernels)))
