"""Training a small convolutional network without gradients: settings, runs and their records.

The network is one that two slow cores can search: two convolutions of stride 2 and a dense layer,
with 9,098 parameters. By RSO, and by exchanges, it is trained from the same weights. The records in
the folder `pretrained/rso` are made by::

    python -c "from laperm_lib.paper.studies import rso; rso.write('pretrained/rso')"

References:
    Tripathi and Singh, "RSO: A Gradient Free Sampling Based Approach For Training Deep Neural
    Networks", 2020, arXiv:2005.05955.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from laperm_lib import files, weight_vectors
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.initializers import SeededInitializer
from laperm_lib.local_search import moves
from laperm_lib.optimizers.rso import RSO
from laperm_lib.paper import datasets
from laperm_lib.paper.experiments.environment import environment
from laperm_lib.paper.experiments.evaluation import accuracy
from laperm_lib.permutation import is_permutation

_log = logging.getLogger(__name__)

PUBLISHED = {5: 0.98, 50: 0.991}
"""Test accuracy on MNIST that the paper reports after so many updates per weight."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search depends on, beside the seed. The defaults are those for MNIST.

    Args:
        dataset: "mnist", or "digits", whose images are taken in their own size of 8 x 8.
        filters: of the two convolutions, 3 x 3 with stride 2, ReLU and "same" padding.
        cycles: updates per weight.
        batch_size: samples in a mini-batch.
        last_scale: the last sigma, as a share of the first.
        move: "addition" or "exchange".
        together: moves measured from the same network.
    """

    dataset: str = "mnist"
    filters: tuple[int, int] = (8, 16)
    cycles: int = 50
    batch_size: int = 5000
    last_scale: float = 0.1
    move: moves.Kind = "addition"
    together: int = 1

    def build(self, seed: int) -> keras.Sequential:
        """The network before training: He-normal kernels, and biases of zero.

        Args:
            seed: an integer of at least 0.
        """
        model = keras.Sequential(name="small_conv")
        model.add(keras.Input((28, 28, 1) if self.dataset == "mnist" else (8, 8, 1)))
        for number, filters in enumerate(self.filters):
            values = SeededInitializer("he_normal", seed, f"conv_{number}/kernel")
            how = {"strides": 2, "padding": "same", "activation": "relu"}
            name = f"conv_{number}"
            model.add(layers.Conv2D(filters, 3, kernel_initializer=values, name=name, **how))
        model.add(layers.Flatten())
        values = SeededInitializer("he_normal", seed, "dense/kernel")
        model.add(layers.Dense(10, kernel_initializer=values, name="dense"))
        return model

    def search(self, seed: int) -> RSO:
        """The search."""
        return RSO(
            cycles=self.cycles,
            batch_size=self.batch_size,
            last_scale=self.last_scale,
            move=self.move,
            together=self.together,
            seed=seed,
        )


SETTINGS = {
    "mnist_addition": Settings(),
    "mnist_together": Settings(together=8),
    "mnist_exchange": Settings(move="exchange"),
}
"""The searches by name, each on one core; the records have the seconds of every cycle."""


@dataclass(frozen=True)
class Point:
    """A network after a cycle.

    Args:
        cycle: cycles done, which are updates per weight; 0 is the start.
        loss: on the last mini-batch; None at the start.
        accuracy: on all test images, 0 to 1.
        changed: weights that the cycle has given another value.
        candidates: networks whose loss the cycle has measured.
        seconds: wall time of the cycle, without the evaluation.
    """

    cycle: int
    loss: float | None
    accuracy: float
    changed: int = 0
    candidates: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """What came out of a search.

    Args:
        settings: the settings.
        seed: the seed of the initial weights, the moves and the mini-batches.
        points: the start, and the network after each cycle.
        is_permutation: whether behind every cycle each weight vector was bitwise a permutation of
            its start.
        parameters: how many weights and biases the network has.
        data_fingerprint: SHA-256 of the dataset.
        environment: versions, hardware and code revision.
    """

    settings: Settings
    seed: int
    points: tuple[Point, ...]
    is_permutation: bool
    parameters: int
    data_fingerprint: str
    environment: dict[str, str]

    def accuracy_after(self, cycles: int) -> float:
        """The test accuracy after so many updates per weight, 0 to 1.

        Raises:
            ValueError: if it was not measured.
        """
        for point in self.points:
            if point.cycle == cycles:
                return point.accuracy
        raise ValueError(f"There is no network after {cycles} cycles.")


def run(
    settings: Settings,
    *,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    cycles: int | None = None,
    verbose: int = 0,
) -> Result:
    """Search for the weights of the small network.

    Args:
        settings: the settings.
        seed: an integer of at least 0.
        folder: where the state is kept after each cycle. A search that has one there goes on from
            it, to the same result. Default: nowhere.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        cycles: how many of the cycles to do, the schedule being that of all. Default: all.
        verbose: 1 shows a progress bar, 0 (the default) nothing.

    Raises:
        ValueError: for impossible settings, or a folder with the state of another search.
        DatasetUnavailableError: if the data cannot be had.
    """
    shape = (8, 8, 1) if settings.dataset == "digits" else None
    data = datasets.load(settings.dataset, data_dir, shape=shape)
    x_train, x_test = (x.astype(np.float32) / 255 for x in (data.x_train, data.x_test))
    model = settings.build(seed)
    search = settings.search(seed)
    initial, deviations = _matrices(model), search.standard_deviations(model)
    points = [Point(0, None, accuracy(model, x_test, data.y_test))]
    was_permutation = True

    kept = None if folder is None else Checkpoints(folder)
    latest = None if kept is None else kept.latest()
    about = {"settings": _plain(settings), "seed": seed, "data": data.fingerprint}
    if latest is not None:
        if latest.notes["about"] != about:
            raise ValueError(f"{folder} holds the state of another search.")
        model.set_weights([latest.arrays[name] for name in sorted(latest.arrays)])
        points = [Point(**point) for point in latest.notes["points"]]
        was_permutation = latest.notes["was_permutation"]

    last = settings.cycles if cycles is None else min(cycles, settings.cycles)
    progress = keras.utils.Progbar(last, verbose=verbose)
    done = points[-1].cycle
    searching = search.iterate(
        model, x_train, data.y_train, first_cycle=done, standard_deviations=deviations
    )
    while points[-1].cycle < last:
        since = time.perf_counter()
        cycle = next(searching)
        seconds = time.perf_counter() - since
        measured = accuracy(model, x_test, data.y_test)
        points.append(
            Point(cycle.number, cycle.loss, measured, cycle.changed, cycle.candidates, seconds)
        )
        was_permutation &= all(map(is_permutation, initial, _matrices(model)))
        progress.update(cycle.number, [("loss", cycle.loss), ("accuracy", measured)])
        _log.info("%s, cycle %d: test accuracy %.4f", settings.move, cycle.number, measured)
        if kept is not None:
            arrays = {f"{number:04d}": value for number, value in enumerate(model.get_weights())}
            notes = {"about": about, "points": [asdict(point) for point in points]}
            kept.save(cycle.number, arrays, notes | {"was_permutation": was_permutation})
    return Result(
        settings,
        seed,
        tuple(points),
        was_permutation,
        model.count_params(),
        data.fingerprint,
        dict(environment()),
    )


def write(
    folder: str | os.PathLike[str],
    names: Sequence[str] = tuple(SETTINGS),
    *,
    seeds: Iterable[int] = (0,),
    state: str | os.PathLike[str] | None = None,
) -> None:
    """Run searches and write their records, "NAME.json" for each.

    Args:
        folder: where the records go, to be read by `load`.
        names: which of `SETTINGS`. Default: all.
        seeds: the seeds. Default: 0 alone.
        state: a folder where searches that are interrupted go on. Default: none.
    """
    seeds = list(seeds)
    for name in names:
        results = [
            run(
                SETTINGS[name],
                seed=seed,
                folder=None if state is None else Path(state, f"{name}-{seed}"),
            )
            for seed in seeds
        ]
        save(results, Path(folder, f"{name}.json"))


def save(results: Iterable[Result], path: str | os.PathLike[str]) -> None:
    """Write results to a JSON file, atomically."""
    files.write_json(path, [asdict(result) for result in results])


def load(path: str | os.PathLike[str]) -> tuple[Result, ...]:
    """Read the results of a JSON file that `save` has written.

    Raises:
        LaPermError: if there is no such file, or it does not hold such results.
    """
    return files.read_json(
        path, lambda entries: tuple(map(_from_json, entries)), holds="results of searches"
    )


def _from_json(values: dict[str, Any]) -> Result:
    settings = dict(values["settings"])
    settings["filters"] = tuple(settings["filters"])
    points = tuple(Point(**point) for point in values["points"])
    return Result(**{**values, "settings": Settings(**settings), "points": points})


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(asdict(settings)))


def _matrices(model: keras.Model) -> list[np.ndarray]:
    return [vectors.matrix() for vectors in weight_vectors.of(model, weight_vectors.KINDS)]
