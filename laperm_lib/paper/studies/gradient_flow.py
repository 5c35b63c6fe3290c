"""Gradient flow of sparse and dense networks of the same capacity: which findings hold here.

The records in the folder `pretrained/gradient_flow` are made by::

    python -c "from laperm_lib.paper.studies import gradient_flow as study; study.write('mlp')"
    python -c "from laperm_lib.paper.studies import gradient_flow as study; study.write('conv')"

What was cut goes on where it was.

References:
    Tessera, Hooker and Rosman, "Keep the gradients flowing: using gradient flow to study sparse
    network optimization", 2021, arXiv:2102.01670.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from laperm_lib import files
from laperm_lib.paper.experiments.environment import environment
from laperm_lib.paper.studies.same_capacity import OPTIMIZERS, Result, Trial, train
from laperm_lib.paper.studies.same_capacity_networks import Architecture
from laperm_lib.paper.studies.signed_rank import Comparison, wilcoxon

_log = logging.getLogger(__name__)

SEEDS = tuple(range(6))
"""The least number of seeds with which the signed-rank test can go below 0.05."""

_MLP = Trial(
    architecture=Architecture(units=(32, 32, 32)), capacity="dense", optimizer="adam", epochs=2
)
_CONV = replace(_MLP, architecture=Architecture(filters=(4, 8)), factor=3, epochs=1)


def _varied(trial: Trial, **changes: Any) -> list[Trial]:
    """A trial without and with batch normalisation, and other changes of its architecture."""
    plain = replace(trial.architecture, **changes)
    return [
        replace(trial, architecture=replace(plain, batch_norm=batch_norm))
        for batch_norm in (False, True)
    ]


def _base(trial: Trial) -> list[Trial]:
    """Sparse against dense, by every optimizer, without and with batch normalisation."""
    return [
        replace(one, optimizer=optimizer, capacity=capacity)
        for optimizer in OPTIMIZERS
        for one in _varied(trial)
        for capacity in ("dense", "sparse")
    ]


def _variants(trial: Trial) -> list[Trial]:
    """What is said to help, and sparse networks whose initial weights have He's variance."""
    sgd_and_adam = [replace(trial, optimizer=optimizer) for optimizer in ("sgd", "adam")]
    penalised = [
        replace(varied, capacity=capacity)
        for one in sgd_and_adam
        for varied in _varied(one, l2=1e-4)
        for capacity in ("dense", "sparse")
    ]
    activated = [
        replace(varied, capacity="sparse")
        for one in sgd_and_adam
        for activation in ("swish", "prelu")
        for varied in _varied(one, activation=activation)
    ]
    rescaled = [replace(trial, optimizer=name, capacity="rescaled") for name in OPTIMIZERS]
    return [*penalised, *activated, *rescaled]


STUDIES: dict[str, tuple[Trial, ...]] = {
    "mlp": (*_base(_MLP), *_variants(_MLP)),
    "conv": tuple(_base(_CONV)),
}
"""The trials of each study. "mlp" has three hidden layers of 32 neurons, four times as wide where
sparse; "conv" two convolutions of 4 and 8 filters, three times as wide."""


def features(trial: Trial) -> dict[str, Any]:
    """What the trials of one study differ in.

    Examples:
        >>> features(STUDIES["mlp"][0])  # doctest: +NORMALIZE_WHITESPACE
        {'optimizer': 'sgd', 'capacity': 'dense', 'batch_norm': False, 'activation': 'relu',
         'l2': 0.0}
    """
    own = {"optimizer": trial.optimizer, "capacity": trial.capacity}
    shared = ("batch_norm", "activation", "l2")
    return own | {name: getattr(trial.architecture, name) for name in shared}


def accuracy(result: Result) -> float:
    """The accuracy on the test images, in percent."""
    return 100 * result.accuracy


def flow(result: Result) -> float:
    """The binary logarithm of the effective gradient flow in training; 1 more is twice as much."""
    return math.log2(result.effective_flow)


def by_seed(
    results: Iterable[Result], measure: Callable[[Result], float], **wanted: Any
) -> dict[int, float]:
    """A number for every seed.

    Args:
        results: of one study.
        measure: `accuracy` or `flow`.
        **wanted: values of `features`; those not named are that of a network with rectifiers,
            without batch normalisation and penalty.

    Raises:
        ValueError: if nothing is found, or a feature is unknown.
    """
    plain = {"batch_norm": False, "activation": "relu", "l2": 0.0}
    found = {r.seed: measure(r) for r in results if features(r.trial) == plain | wanted}
    if not found:
        raise ValueError(f"There is no result with {wanted}.")
    return found


@dataclass(frozen=True)
class Finding:
    """A published finding in one setting, beside what came out here.

    Args:
        claim: a key of `CLAIMS`.
        setting: where it was tested, in words.
        comparison: of the differences that the claim says are positive. Those of accuracies are in
            percentage points, those of gradient flow in powers of two.
    """

    claim: str
    setting: str
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """[Re] or [¬Re] where the test, two-sided at 0.05, tells; otherwise "open"."""
        if self.comparison.p_value >= 0.05:
            return "open"
        return "[Re]" if self.comparison.mean > 0 else "[¬Re]"


CLAIMS = {
    "batch norm": "batch normalisation raises accuracy more in the sparse network",
    "adaptive": "gradient flow is larger under Adam than under SGD",
    "l2": "gradient flow is larger with an L2 penalty",
    "swish": "Swish raises the accuracy of the sparse network",
    "prelu": "PReLU raises the accuracy of the sparse network",
}
"""The published findings, each as a difference that can be tested."""


def findings(results: Sequence[Result]) -> list[Finding]:
    """Test the published findings in every setting that a study has.

    Args:
        results: of one study, which need not be finished; two kinds of networks are compared over
            the seeds that both have been trained with.

    Raises:
        ValueError: if a kind of network is missing, or two have no seed in common.
    """

    def at(measure: Callable[[Result], float], **wanted: Any) -> dict[int, float]:
        return by_seed(results, measure, **wanted)

    found = []
    for optimizer in OPTIMIZERS:
        gains = [
            _difference(
                at(accuracy, optimizer=optimizer, capacity=capacity, batch_norm=True),
                at(accuracy, optimizer=optimizer, capacity=capacity),
            )
            for capacity in ("sparse", "dense")
        ]
        found.append(_finding("batch norm", optimizer, *gains))
    has_variants = any(result.trial.architecture.l2 for result in results)
    for batch_norm in (False, True):
        beside = ", batch norm" if batch_norm else ""
        for capacity in ("dense", "sparse"):
            here = {"capacity": capacity, "batch_norm": batch_norm}
            adam, sgd = (at(flow, optimizer=name, **here) for name in ("adam", "sgd"))
            found.append(_finding("adaptive", f"{capacity}{beside}", adam, sgd))
        for optimizer in ("sgd", "adam") if has_variants else ():
            for capacity in ("dense", "sparse"):
                here = {"optimizer": optimizer, "capacity": capacity, "batch_norm": batch_norm}
                pair = at(flow, l2=1e-4, **here), at(flow, **here)
                found.append(_finding("l2", f"{optimizer}, {capacity}{beside}", *pair))
            here = {"optimizer": optimizer, "capacity": "sparse", "batch_norm": batch_norm}
            for activation in ("swish", "prelu"):
                pair = at(accuracy, activation=activation, **here), at(accuracy, **here)
                found.append(_finding(activation, f"{optimizer}{beside}", *pair))
    return sorted(found, key=lambda finding: list(CLAIMS).index(finding.claim))


def _difference(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}


def _finding(claim: str, setting: str, one: dict[int, float], other: dict[int, float]) -> Finding:
    return Finding(claim, setting, wilcoxon(_difference(one, other).values()))


def write(
    study: str,
    folder: str | os.PathLike[str] = "pretrained/gradient_flow",
    *,
    seeds: Iterable[int] = SEEDS,
    data_dir: str | None = None,
    verbose: int = 0,
) -> None:
    """Train all networks of a study, seed by seed, and keep each result as it comes.

    Args:
        study: a key of `STUDIES`.
        folder: where to put "mlp.json" or "conv.json". What it holds already is not trained again.
        seeds: the seeds. Default: `SEEDS`.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        verbose: 1 shows a progress bar, 0 (the default) nothing.

    Raises:
        ValueError: if there is no such study.
        LaPermError: if the file that is there holds no results.
        DatasetUnavailableError: if the data cannot be had.
    """
    if study not in STUDIES:
        raise ValueError(f"Unknown study {study!r}; there are {', '.join(STUDIES)}.")
    path = Path(folder, f"{study}.json")
    results = load(path) if path.exists() else []
    done = {(result.trial, result.seed) for result in results}
    planned = [(trial, seed) for seed in seeds for trial in STUDIES[study]]
    progress = keras.utils.Progbar(len(planned), verbose=verbose)
    for trial, seed in planned:
        if (trial, seed) not in done:
            results.append(train(trial, seed=seed, data_dir=data_dir))
            _log.info("%s, seed %d: %.4f", features(trial), seed, results[-1].accuracy)
            keras.utils.clear_session()  # hundreds of models would stay in memory
            save(results, path)
        progress.add(1)


def save(results: Iterable[Result], path: str | os.PathLike[str]) -> None:
    """Write results and the environment of this process to a JSON file, atomically."""
    content = {
        "environment": environment(),
        "results": [_to_json(result) for result in results],
    }
    files.write_json(path, content, indent=None)


def load(path: str | os.PathLike[str]) -> list[Result]:
    """Read results that `save` has written.

    Raises:
        LaPermError: if there is no such file, or it holds no results.
    """
    return files.read_json(
        path,
        lambda content: [_from_json(values) for values in content["results"]],
        holds="results of trials",
    )


def _to_json(result: Result) -> dict[str, Any]:
    """With four digits of each norm, which is more than two seeds have in common."""
    short = {
        name: [[float(f"{norm:.4g}") for norm in at] for at in getattr(result, name)]
        for name in ("norms", "effective")
    }
    return asdict(result) | short


def _from_json(values: dict[str, Any]) -> Result:
    shape = values["trial"]["architecture"]
    shape |= {name: tuple(shape[name]) for name in ("filters", "units")}
    values["trial"]["architecture"] = Architecture(**shape)
    values["trial"] = Trial(**values["trial"])
    for name in ("active", "steps"):
        values[name] = tuple(values[name])
    for name in ("norms", "effective"):
        values[name] = tuple(tuple(at) for at in values[name])
    return Result(**values)
