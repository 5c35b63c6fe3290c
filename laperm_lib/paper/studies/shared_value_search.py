"""A search for the best network whose weights share one value, among what could matter.

References:
    Akiba et al., "Optuna: A next-generation hyperparameter optimization framework", KDD 2019.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np

from laperm_lib import files
from laperm_lib.errors import LaPermError
from laperm_lib.paper.experiments.environment import environment
from laperm_lib.paper.studies.shared_value import Result, Trial, from_json, to_json, train

_log = logging.getLogger(__name__)

_TRIALS_FOR_IMPORTANCE = 20
_FINALISTS = 5
_MASKS = 3


def _common(asked: Any) -> dict[str, Any]:
    """What is varied in every space."""
    value = asked.suggest_float("value", 0.01, 1.0, log=True)
    period = asked.suggest_int("sync_period", 5, 1000, log=True)
    # A weight of 0 and one of the value change places if in one period training moves them by
    # half of it each; Adam moves a weight by about its rate in a step.
    reach = asked.suggest_float("reach", 0.3, 20.0, log=True)
    return {
        "value": value,
        "sync_period": period,
        "learning_rate": reach * value / period,
        "last_rate": asked.suggest_float("last_rate", 0.01, 1.0, log=True),
        "last_period": asked.suggest_float("last_period", 0.5, 8.0, log=True),
        "batch_size": asked.suggest_int("batch_size", 32, 1000, log=True),
        "epochs": asked.suggest_int("epochs", 5, 25),
        "whole": asked.suggest_categorical("whole", [False, True]),
        "summed": asked.suggest_categorical("summed", [True, False]),
    }


def _f1(asked: Any) -> Trial:
    return Trial(keep=(asked.suggest_float("keep", 0.05, 0.95),), **_common(asked))


def _f1_free(asked: Any) -> Trial:
    free = {name: asked.suggest_categorical(name, [False, True]) for name in ("centred", "bias")}
    return replace(_f1(asked), **free)


def _keep(asked: Any, layers: int) -> tuple[float, ...]:
    return tuple(asked.suggest_float(f"keep_{i}", 0.02, 0.9, log=True) for i in range(layers))


def _f2(asked: Any) -> Trial:
    penalty = asked.suggest_categorical("l2", [0.0, 1e-4])
    return Trial(hidden=(128, 64), keep=_keep(asked, 3), l2=penalty, **_common(asked))


def _deep(asked: Any) -> Trial:
    """Rectifiers that have something to cut off, and up to two hidden layers of up to 1000."""
    free = {name: asked.suggest_categorical(name, [False, True]) for name in ("centred", "bias")}
    depth = asked.suggest_int("depth", 1, 2)
    hidden = tuple(asked.suggest_int(f"hidden_{i}", 32, 1000, log=True) for i in range(depth))
    return Trial(hidden=hidden, keep=_keep(asked, depth + 1), **free, **_common(asked))


_PUBLISHED = {
    "sync_period": 250,
    "last_rate": 0.95**9,
    "last_period": 1.0,
    "batch_size": 128,
    "whole": False,
    "summed": True,
}
_F1_PUBLISHED = _PUBLISHED | {"value": 0.08, "reach": 250 * 1e-3 / 0.08, "epochs": 10, "keep": 0.6}
_F2_PUBLISHED = _PUBLISHED | {
    "value": 0.03,
    "reach": 250 * 1e-3 / 0.03,
    "epochs": 25,
    "last_rate": 0.95**24,
    "keep_0": 1 / 15,
    "keep_1": 1 / 7,
    "keep_2": 1 / 3,
    "l2": 1e-4,
}

SPACES: dict[str, tuple[Callable[[Any], Trial], dict[str, Any]]] = {
    "f1": (_f1, _F1_PUBLISHED),
    "f1_free": (_f1_free, _F1_PUBLISHED | {"centred": False, "bias": False}),
    "f2": (_f2, _F2_PUBLISHED),
    "deep": (
        _deep,
        {k: v for k, v in _F2_PUBLISHED.items() if k != "l2"}
        | {"centred": True, "bias": False, "depth": 2, "hidden_0": 128, "hidden_1": 64},
    ),
}
"""What is searched, by name. Each is a function from Optuna's trial to ours, and the trial to begin
with. "f1" and "f2" are the published networks; "f1_free" may have biases and centred pixels; so may
"deep", and other hidden layers."""


@dataclass(frozen=True)
class Study:
    """What a search has found.

    Args:
        space: the name of the space that was searched.
        dataset: what the networks were trained on.
        results: of all trials, in their order.
        importance: for each thing that was varied its share in what decides, 0 to 1; empty if there
            are too few trials to tell.
        finalists: the best five trials and the published settings again, each with three other
            masks. In studies from before 2026-11-23 the published settings need not be among them.
        confirmed: the best of these again, on all training images; see `confirm`.
        seconds: wall time of the search, without what was done before a cut, and of `confirm`;
            0 in older studies.
        environment: versions, hardware and code revision; empty in older studies.
    """

    space: str
    dataset: str
    results: tuple[Result, ...]
    importance: dict[str, float]
    finalists: tuple[Result, ...]
    confirmed: tuple[Result, ...] = ()
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """The finalist with the best mean accuracy on the images held out.

        Not simply the best trial: of many masks the best one is a lucky one.
        """
        return max((result.trial for result in self.finalists), key=self.held_out)

    def held_out(self, trial: Trial) -> float:
        """The mean accuracy of a finalist on the images held out, 0 to 1."""
        return float(np.mean([r.held_out for r in self.finalists if r.trial == trial]))


def search(
    space: str,
    *,
    trials: int,
    seed: int = 0,
    dataset: str = "mnist",
    data_dir: str | None = None,
    storage: str | None = None,
) -> Study:
    """Look for the trial with the best accuracy on training images held out.

    The tree-structured Parzen estimator of Optuna suggests the trials. The first is the published
    one. Every trial has a mask of its own, so that the search does not fit one. In the end the best
    five and the published one are trained with three other masks each.

    Args:
        space: a key of `SPACES`.
        trials: how many, those of an earlier search in `storage` included.
        seed: for the suggestions; trial i has the seed 1000 + i, the finalists have 2000 to 2002.
            Default 0.
        dataset: "mnist" (the default) or "digits".
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        storage: a file that keeps the trials, so that a search that was cut can go on. Default:
            none.

    Returns:
        The `Study`.

    Raises:
        ValueError: if there is no such space.
        LaPermError: if Optuna is not installed.
        DatasetUnavailableError: if the data cannot be had.
    """
    if space not in SPACES:
        raise ValueError(f"Unknown space {space!r}; there are {', '.join(SPACES)}.")
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import TrialState
    except ImportError:
        raise LaPermError(
            'The search needs Optuna: pip install "laperm-lib[search]" (or: pip install optuna).'
        ) from None

    since = time.perf_counter()
    suggest, first = SPACES[space]
    measure = _measurement(dataset, data_dir)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = None
    if storage is not None:
        kept = optuna.storages.JournalStorage(JournalFileBackend(storage))
    study = optuna.create_study(
        study_name=f"{space}-{dataset}-{seed}",
        storage=kept,
        load_if_exists=True,
        direction="maximize",
    )

    def objective(asked: Any) -> float:
        result = measure(suggest(asked), seed=1000 + asked.number, hold_out=True)
        asked.set_user_attr("result", to_json(result))
        _log.info("%s, trial %d: %.4f", space, asked.number, result.held_out)
        return result.held_out or 0.0

    # One that was cut in its first trial still has it to do.
    is_done = any(t.params == first and "result" in t.user_attrs for t in study.trials)
    if not is_done and not any(t.state == TrialState.WAITING for t in study.trials):
        study.enqueue_trial(first)
    finished = sum(trial.state.is_finished() for trial in study.trials)
    # A search that goes on must not suggest again what it began with.
    study.sampler = optuna.samplers.TPESampler(seed=seed + finished, multivariate=True)
    study.optimize(objective, gc_after_trial=True, n_trials=max(0, trials - finished))
    done = [t for t in study.trials if "result" in t.user_attrs]
    enough = len(done) >= _TRIALS_FOR_IMPORTANCE
    importance = optuna.importance.get_param_importances(study) if enough else {}
    results = tuple(from_json(t.user_attrs["result"]) for t in done)
    ranked = sorted(results, key=lambda result: -(result.held_out or 0.0))
    finalists = []
    published = suggest(optuna.trial.FixedTrial(first))
    for trial in dict.fromkeys([*(result.trial for result in ranked[:_FINALISTS]), published]):
        for seed_of_mask in range(2000, 2000 + _MASKS):
            finalists.append(measure(trial, seed=seed_of_mask, hold_out=True))
            _log.info("%s, finalist: %.4f", space, finalists[-1].held_out)
    return Study(
        space,
        dataset,
        results,
        {name: round(float(share), 4) for name, share in importance.items()},
        tuple(finalists),
        seconds=round(time.perf_counter() - since, 2),
        environment=environment(),
    )


def confirm(study: Study, seeds: Iterable[int], *, data_dir: str | None = None) -> Study:
    """Train the best finalist on all training images, and measure it on the test images.

    The test images have had no part in the search, and the seeds are not those of its trials, so
    that the accuracies are what one may expect of another mask.

    Args:
        study: what `search` has found.
        seeds: of masks and orders of images.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.

    Returns:
        The study with `confirmed`.
    """
    since = time.perf_counter()
    measure = _measurement(study.dataset, data_dir)
    confirmed = []
    for seed in seeds:
        result = measure(study.best, seed=seed, hold_out=False)
        confirmed.append(result)
        _log.info("%s, confirmed with seed %d: %.4f", study.space, seed, result.test)
    seconds = round(study.seconds + time.perf_counter() - since, 2)
    return replace(study, confirmed=tuple(confirmed), seconds=seconds)


def _measurement(dataset: str, data_dir: str | None) -> Callable[..., Result]:
    """`train` with this data, and without the models that Keras would keep: there are hundreds."""

    def measure(trial: Trial, *, seed: int, hold_out: bool) -> Result:
        result = train(trial, seed=seed, hold_out=hold_out, dataset=dataset, data_dir=data_dir)
        keras.utils.clear_session()
        return result

    return measure


def save(study: Study, path: str | os.PathLike[str]) -> None:
    """Write a study to a JSON file, atomically."""
    files.write_json(path, asdict(study))


def load(path: str | os.PathLike[str]) -> Study:
    """Read a study that `save` has written.

    Raises:
        LaPermError: if there is no such file, or it holds no study.
    """

    def parse(values: dict[str, Any]) -> Study:
        results = ("results", "finalists", "confirmed")
        return Study(**values | {name: tuple(map(from_json, values[name])) for name in results})

    return files.read_json(path, parse, holds="a study")
