"""Training a small convolutional network without gradients: settings, searches and their records.

An epoch of the settings is a cycle of RSO, in which every weight is visited once.

References:
    Tripathi and Singh, "RSO: A Gradient Free Sampling Based Approach For Training Deep Neural
    Networks", arXiv 2005.05955.
"""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras

from laperm_lib import weight_vectors
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.optimizers.rso import RSO
from laperm_lib.paper import methods
from laperm_lib.paper.environment import environment
from laperm_lib.paper.evaluation import accuracy, images_for
from laperm_lib.paper.networks import SmallConvNetwork
from laperm_lib.paper.records import Evaluation, Record, save, to_json
from laperm_lib.paper.settings import Data, Schedule, Settings
from laperm_lib.permutation import are_permutations

_log = logging.getLogger(__name__)

PUBLISHED = {5: 0.98, 50: 0.991}
"""Test accuracy on MNIST that the paper reports after so many updates of every weight."""

_ADDITION = Settings(
    network=SmallConvNetwork(),
    data=Data(dataset="mnist"),
    method=methods.RSO(),
    schedule=Schedule(epochs=50, batch_size=5000),
    evaluate_every=1,
)
SETTINGS = {
    "mnist_addition": _ADDITION,
    "mnist_together": _ADDITION.replace(together=8),
    "mnist_exchange": _ADDITION.replace(move="exchange"),
}
"""The searches by name, each on one core."""


def run(
    settings: Settings,
    *,
    seed: int,
    experiment: str = "rso",
    folder: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    cycles: int | None = None,
    verbose: int = 0,
) -> Record:
    """Search for the weights of a network.

    Args:
        settings: as in `SETTINGS`.
        seed: of initial weights, moves and mini-batches.
        experiment: its name, for the record.
        folder: where the state is kept; an interrupted search resumes from there. Default: nowhere.
        data_dir: where the dataset lies. Default: as `datasets.load`.
        cycles: after how many to stop. Default: the settings' epochs.
        verbose: 1 shows a progress bar, 0 (the default) nothing.

    Returns:
        The record, an evaluation for each cycle; `measured` has lists of loss, changed weights,
        candidates and seconds for each cycle, and the number of parameters.

    Raises:
        WeightFileError: if the folder holds the state of another search.

    Examples:
        >>> settings = SETTINGS["mnist_exchange"].replace(dataset="digits", batch_size=200)
        >>> record = run(settings, seed=0, cycles=1)
        >>> len(record.evaluations), record.is_permutation
        (2, True)
    """
    assert isinstance(settings.method, methods.RSO)
    images, schedule = images_for(settings, data_dir), settings.schedule
    model, report = settings.network.build(seed)
    search = RSO(
        cycles=schedule.epochs,
        batch_size=schedule.batch_size,
        seed=seed,
        **asdict(settings.method),
    )
    initial = weight_vectors.matrices(model, weight_vectors.KINDS)
    deviations = search.standard_deviations(model)
    evaluations = [Evaluation(0, 0, accuracy(model, images.x_test, images.y_test))]
    measured: dict[str, list[Any]] = {"loss": [None], "changed": [0], "candidates": [0]}
    measured["seconds"] = [0.0]
    was_permutation = True
    about = {"settings": to_json(settings), "seed": seed, "data": images.fingerprint}
    kept = None if folder is None else Checkpoints(folder, about)
    latest = None if kept is None else kept.latest()
    if latest is not None:
        model.set_weights([latest.arrays[name] for name in sorted(latest.arrays)])
        evaluations = [Evaluation(**each) for each in latest.notes["evaluations"]]
        measured = latest.notes["measured"]
        was_permutation = latest.notes["was_permutation"]
    last = schedule.epochs if cycles is None else min(cycles, schedule.epochs)
    progress = keras.utils.Progbar(last, verbose=verbose)
    searching = search.iterate(
        model,
        images.x_train,
        images.y_train,
        first_cycle=evaluations[-1].step,
        standard_deviations=deviations,
    )
    while evaluations[-1].step < last:
        since = time.perf_counter()
        cycle = next(searching)
        measured["seconds"].append(time.perf_counter() - since)
        for name in ("loss", "changed", "candidates"):
            measured[name].append(getattr(cycle, name))
        right = accuracy(model, images.x_test, images.y_test)
        evaluations.append(Evaluation(cycle.number, 0, right))
        now = weight_vectors.matrices(model, weight_vectors.KINDS)
        was_permutation &= are_permutations(initial, now)
        progress.update(cycle.number, [("loss", cycle.loss), ("accuracy", right)])
        _log.info("%s, cycle %d: test accuracy %.4f", experiment, cycle.number, right)
        if kept is not None:
            arrays = {f"{number:04d}": value for number, value in enumerate(model.get_weights())}
            notes: dict[str, Any] = {"measured": measured}
            notes["evaluations"] = [asdict(each) for each in evaluations]
            notes["was_permutation"] = was_permutation
            kept.save(cycle.number, arrays, notes)
    return Record(
        experiment=experiment,
        settings=settings,
        seed=seed,
        fraction_pruned=report.fraction_pruned,
        evaluations=tuple(evaluations),
        final=evaluations[-1].accuracy,
        is_permutation=was_permutation,
        data_fingerprint=images.fingerprint,
        seconds=round(sum(measured["seconds"]), 2),
        environment=dict(environment()),
        measured=measured | {"parameters": model.count_params()},
        model=model,
    )


def write(
    folder: str | os.PathLike[str],
    names: Sequence[str] = tuple(SETTINGS),
    *,
    seeds: Iterable[int] = (0,),
    state: str | os.PathLike[str] | None = None,
) -> None:
    """Run searches and write their records, "NAME.json" for each; `state` is where they resume."""
    seeds = list(seeds)
    for name in names:
        found = []
        for seed in seeds:
            own = None if state is None else Path(state, f"{name}-{seed}")
            made = run(SETTINGS[name], seed=seed, experiment=name, folder=own)
            found.append(replace(made, model=None))
        save(found, Path(folder, f"{name}.json"))


def accuracy_after(record: Record, cycles: int) -> float:
    """The test accuracy after so many updates of every weight, 0 to 1."""
    for evaluation in record.evaluations:
        if evaluation.step == cycles:
            return evaluation.accuracy
    raise ValueError(f"There is no network after {cycles} cycles.")
