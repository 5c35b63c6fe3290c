r"""Networks whose weights share one value: a search for the best, and how much chance decides.

A weight is the one value or zero, so permuting decides where a neuron's connections are, and not
how many it has. The mask that chance draws decides that. Of the best of several masks
`expected_best` tells what to expect.

The records in the folder `pretrained` are made by `python -m laperm_lib search`, and by::

    from laperm_lib.paper.studies import shared_value
    shared_value.write("pretrained")

References:
    Qiu and Suda, NeurIPS 2020, section 5.5.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import files, weight_vectors
from laperm_lib._arguments import check_integer, check_name
from laperm_lib.errors import NonFiniteWeightError, in_short
from laperm_lib.paper._extras import extra
from laperm_lib.paper.environment import environment
from laperm_lib.paper.manifest import Entry
from laperm_lib.paper.methods import Adam, LaPerm
from laperm_lib.paper.networks import DenseNetwork, PaperNetwork
from laperm_lib.paper.records import Record, from_json, to_json
from laperm_lib.paper.settings import NEVER, Data, Schedule, Settings
from laperm_lib.paper.training import run
from laperm_lib.paper.verification import publish_first

_log = logging.getLogger(__name__)

SETTINGS = Settings(
    network=PaperNetwork(model="mlp", shared_value=0.13, keep=(0.15, 0.36)),
    data=Data(dataset="mnist", held_out=5000),
    method=LaPerm(sync_period=5),
    schedule=Schedule(epochs=12, batch_size=256, learning_rate=0.23, decay=0.856),
    evaluate_every=215,
)
"""Settings of the network "one_value", 784-800-10: the best that the search "deep" has found,
rounded, with a constant sync period. An epoch has 215 steps."""

_TRIALS_FOR_IMPORTANCE = 20
_FINALISTS = 5
_MASKS = 3
_HELD_OUT = {"mnist": 10_000, "digits": 359}
_STUDY = "{}-{}-0"  # its name in the journals that there are


def write(folder: str | os.PathLike[str], seeds: Iterable[int] = range(10)) -> Entry:
    """Train with `SETTINGS` for each seed; write the records, and the network of the first."""
    made = (run(SETTINGS, seed=seed, experiment="one_value") for seed in seeds)
    return publish_first("one_value", made, folder)


def expected_best(accuracies: Iterable[float], count: int) -> float:
    r"""The mean of the best of several trials, over all choices of so many of those that were made.

    With :math:`n` trials in ascending order the best of :math:`k` is number :math:`i` in
    :math:`\binom{i - 1}{k - 1}` of the :math:`\binom{n}{k}` choices.

    Args:
        accuracies: of the trials.
        count: :math:`k`, from 1 to their number.

    Raises:
        ValueError: if so many cannot be chosen.

    Examples:
        >>> expected_best([0.25, 0.5, 1.0], 2)
        0.8333333333333333
    """
    ascending = sorted(accuracies)
    if not isinstance(count, int) or not 1 <= count <= len(ascending):
        raise ValueError(f"Of {len(ascending)} trials 1 to that many are chosen, got {count!r}.")
    choices = math.comb(len(ascending), count)
    # Integers of Python: both binomials may have hundreds of digits.
    shares = [math.comb(below, count - 1) / choices for below in range(len(ascending))]
    return math.fsum(share * best for share, best in zip(shares, ascending, strict=True))


def fan_in(settings: Settings, seed: int) -> list[np.ndarray]:
    """How many connections each neuron of a network starts with, and keeps; one array a kernel."""
    vectors = weight_vectors.of(settings.network.build(seed)[0])
    return [np.count_nonzero(each.matrix(), axis=1) for each in vectors]


# -- the search -----------------------------------------------------------------------------------


def _settings(asked: Any, network: DenseNetwork, value: float, pixels: Any = "unit") -> Settings:
    """A network, with what is varied in every space."""
    period = asked.suggest_int("sync_period", 5, 1000, log=True)
    # A weight of 0 and one of the value change places if in one period training moves them by
    # half of it each; Adam moves a weight by about its rate in a step.
    reach = asked.suggest_float("reach", 0.3, 20.0, log=True)
    last_rate = asked.suggest_float("last_rate", 0.01, 1.0, log=True)
    last_period = asked.suggest_float("last_period", 0.5, 8.0, log=True)
    batch_size = asked.suggest_int("batch_size", 32, 1000, log=True)
    epochs = asked.suggest_int("epochs", 5, 25)
    network = replace(network, whole=asked.suggest_categorical("whole", [False, True]))
    inner = Adam(summed_loss=asked.suggest_categorical("summed", [True, False]))
    return Settings(
        network=network,
        data=Data(dataset="mnist", pixels=pixels),
        method=LaPerm(inner=inner, sync_period=period, last_period=last_period),
        schedule=Schedule(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=reach * value / period,
            decay=last_rate ** (1 / (epochs - 1)),
        ),
        evaluate_every=NEVER,
    )


def _value(asked: Any) -> float:
    return asked.suggest_float("value", 0.01, 1.0, log=True)


def _free(asked: Any) -> tuple[str, bool]:
    """Pixels, and whether there are biases."""
    centred = asked.suggest_categorical("centred", [False, True])
    return "centred" if centred else "unit", asked.suggest_categorical("bias", [False, True])


def _keep(asked: Any, layers: int) -> tuple[float, ...]:
    return tuple(asked.suggest_float(f"keep_{i}", 0.02, 0.9, log=True) for i in range(layers))


def _f1(asked: Any) -> Settings:
    keep = (asked.suggest_float("keep", 0.05, 0.95),)
    value = _value(asked)
    return _settings(asked, DenseNetwork(keep=keep, shared_value=value), value)


def _f1_free(asked: Any) -> Settings:
    settings = _f1(asked)
    pixels, bias = _free(asked)
    return settings.replace(pixels=pixels, bias=bias)


def _f2(asked: Any) -> Settings:
    penalty = asked.suggest_categorical("l2", [0.0, 1e-4])
    keep, value = _keep(asked, 3), _value(asked)
    network = DenseNetwork(hidden=(128, 64), keep=keep, shared_value=value, l2=penalty)
    return _settings(asked, network, value)


def _deep(asked: Any) -> Settings:
    """Rectifiers that have something to cut off, and up to two hidden layers of up to 1000."""
    pixels, bias = _free(asked)
    depth = asked.suggest_int("depth", 1, 2)
    hidden = tuple(asked.suggest_int(f"hidden_{i}", 32, 1000, log=True) for i in range(depth))
    keep, value = _keep(asked, depth + 1), _value(asked)
    network = DenseNetwork(hidden=hidden, keep=keep, shared_value=value, bias=bias)
    return _settings(asked, network, value, pixels)


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
SPACES: dict[str, tuple[Callable[[Any], Settings], dict[str, Any]]] = {
    "f1": (_f1, _F1_PUBLISHED),
    "f1_free": (_f1_free, _F1_PUBLISHED | {"centred": False, "bias": False}),
    "f2": (_f2, _F2_PUBLISHED),
    "deep": (
        _deep,
        {k: v for k, v in _F2_PUBLISHED.items() if k != "l2"}
        | {"centred": True, "bias": False, "depth": 2, "hidden_0": 128, "hidden_1": 64},
    ),
}
"""What is searched, by name: a function from Optuna's trial to settings, and the trial to begin
with. "f1" and "f2" are the published networks; "f1_free" may have biases and centred pixels; so may
"deep", and other hidden layers."""


@dataclass(frozen=True)
class Study:
    """What a search in one of the `SPACES` has found."""

    space: str
    dataset: str
    results: tuple[Record, ...]  # the trials in order, measured on images held out
    importance: dict[str, float]  # of each setting, 0 to 1, with 20 trials or more
    finalists: tuple[Record, ...]  # the best five and the published one, with three more masks each
    confirmed: tuple[Record, ...] = ()  # the best finalist on all images, with test accuracies
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Settings:
        """The finalist with the best mean accuracy on the images held out."""
        return max((record.settings for record in self.finalists), key=self.held_out)

    def held_out(self, settings: Settings) -> float:
        """The mean accuracy of a finalist on the images held out, 0 to 1."""
        own = [r.final_held_out for r in self.finalists if r.settings == settings]
        return float(np.mean(np.array(own, float)))


def search(
    space: str,
    *,
    trials: int,
    dataset: str = "mnist",
    data_dir: str | None = None,
    storage: str | os.PathLike[str] | None = None,
) -> Study:
    """Look for the settings with the best accuracy on training images held out.

    Args:
        space: one of `SPACES`.
        trials: how many, those in `storage` included.
        dataset: "mnist" or "digits".
        data_dir: where it lies. Default: as `datasets.load`.
        storage: a file from which an interrupted search resumes. Default: none.

    Raises:
        ValueError: if the space or the dataset is unknown, `trials` is below 1, or the file holds
            anything but searches.
        ImportError: if Optuna is not installed.

    Examples:
        >>> study = search("f1", trials=20, dataset="digits")  # doctest: +SKIP
    """
    check_name("space", space, SPACES)
    check_name("dataset", dataset, _HELD_OUT)
    check_integer("trials", trials, at_least=1)
    with extra("search"):
        import optuna
        from optuna.trial import TrialState
    since = time.perf_counter()
    suggest, first = SPACES[space]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=_STUDY.format(space, dataset),
        storage=None if storage is None else _journal(storage),
        load_if_exists=True,
        direction="maximize",
    )

    def measure(settings: Settings, seed: int) -> Record:
        chosen = settings.replace(dataset=dataset, held_out=_HELD_OUT[dataset])
        # A search keeps away from the test images.
        record = replace(_train(chosen, seed, space, data_dir), final=None)
        _log.info("%s, seed %d: %.4f held out", space, seed, record.final_held_out)
        return record

    def objective(asked: Any) -> float:
        record = measure(suggest(asked), 1000 + asked.number)
        asked.set_user_attr("result", to_json(record))
        return record.final_held_out or 0.0

    # One that was interrupted in its first trial still has it to do.
    is_done = any(t.params == first and "result" in t.user_attrs for t in study.trials)
    if not is_done and not any(t.state == TrialState.WAITING for t in study.trials):
        study.enqueue_trial(first)
    finished = sum(trial.state.is_finished() for trial in study.trials)
    # A search that resumes must not suggest again what it began with.
    study.sampler = optuna.samplers.TPESampler(seed=finished, multivariate=True)
    # One that diverges has failed, and the search goes on.
    left, diverges = max(0, trials - finished), (NonFiniteWeightError,)
    study.optimize(objective, n_trials=left, catch=diverges, gc_after_trial=True)
    done = [t for t in study.trials if "result" in t.user_attrs]
    enough = len(done) >= _TRIALS_FOR_IMPORTANCE
    importance = optuna.importance.get_param_importances(study) if enough else {}
    try:
        results = tuple(from_json(t.user_attrs["result"], Record) for t in done)
    except ValueError as error:
        raise ValueError(f"{storage} is damaged: {in_short(error)}") from None
    ranked = sorted(results, key=lambda record: -(record.final_held_out or 0.0))
    published = suggest(optuna.trial.FixedTrial(first))
    published = published.replace(dataset=dataset, held_out=_HELD_OUT[dataset])
    chosen = dict.fromkeys([*(record.settings for record in ranked[:_FINALISTS]), published])
    finalists = [measure(each, mask) for each in chosen for mask in range(2000, 2000 + _MASKS)]
    return Study(
        space,
        dataset,
        results,
        {name: round(float(share), 4) for name, share in importance.items()},
        tuple(finalists),
        seconds=round(time.perf_counter() - since, 2),
        environment=environment(),
    )


def _journal(path: str | os.PathLike[str]) -> Any:
    """Optuna's storage in a file; what a killed process has written of its last line is cut off."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path = os.path.abspath(path)  # with a relative one Optuna waits for ever for a killed process
    backend, lock = JournalFileBackend(path), JournalFileSymlinkLock(path)
    lock.acquire()
    try:
        content = Path(path).read_bytes() if os.path.isfile(path) else b"no file"
        *lines, cut = content.split(b"\n")
        whole = all("op_code" in json.loads(line) for line in lines)
        found = optuna.storages.JournalStorage(backend)
        known = {_STUDY.format(space, dataset) for space in SPACES for dataset in _HELD_OUT}
        begins = b'{"op_code":'  # as Optuna writes each line
        if (
            not whole
            or cut[:11] != begins[: len(cut)]
            or set(optuna.get_all_study_names(found)) - known
        ):
            raise ValueError("another program has written it")
        if cut:
            os.truncate(path, len(content) - len(cut))
            _log.warning("%s: the last line, which a killed process left, is cut off.", path)
    except Exception as error:  # whatever Optuna makes of a foreign file
        raise ValueError(f"{path} does not hold searches of this kind: {in_short(error)}") from None
    finally:
        lock.release()
    return found


def confirm(study: Study, seeds: Iterable[int], *, data_dir: str | None = None) -> Study:
    """Train the best finalist on all training images, and measure it on the test images."""
    since = time.perf_counter()
    settings = study.best.replace(held_out=0)
    confirmed = [_train(settings, seed, study.space, data_dir) for seed in seeds]
    seconds = round(study.seconds + time.perf_counter() - since, 2)
    return replace(study, confirmed=tuple(confirmed), seconds=seconds)


def _train(settings: Settings, seed: int, experiment: str, data_dir: str | None) -> Record:
    """A record without its network, and without what Keras would keep: there are hundreds."""
    record = run(settings, seed=seed, experiment=experiment, data_dir=data_dir)
    keras.utils.clear_session()
    return replace(record, model=None)


def save(study: Study, path: str | os.PathLike[str]) -> None:
    """Write a study to a JSON file, atomically."""
    files.write_json(path, to_json(study), indent=None)


def load(path: str | os.PathLike[str]) -> Study:
    """Read a study that `save` has written."""
    return files.read_json(path, lambda values: from_json(values, Study), holds="a study")
