"""Records of trainings: what was trained where, and what was measured, as JSON files.

Three accuracies answer three questions and have three names: `final`, `selected` and
`published_protocol`.

References:
    Qiu and Suda, NeurIPS 2020, section 5; the published code reports the best test accuracy.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from laperm_lib import files
from laperm_lib.errors import LaPermError
from laperm_lib.paper._extras import extra
from laperm_lib.paper.methods import Method
from laperm_lib.paper.networks import Network
from laperm_lib.paper.settings import Settings

with extra("paper"):
    import cattrs
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
    from cattrs.strategies import configure_tagged_union, include_subclasses
    from cattrs.v import format_exception

_T = TypeVar("_T")


@dataclass(frozen=True)
class Evaluation:
    """Accuracy after a step.

    Args:
        step: training steps taken; of RSO, cycles.
        since_sync: how many of them since the last synchronisation; 0 is a permutation of the
            initial weights, anything else is not. Always 0 for Adam alone.
        accuracy: on all test images, 0 to 1.
        held_out: on the training images held out, 0 to 1; None if there are none.
    """

    step: int
    since_sync: int
    accuracy: float
    held_out: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a training.

    Args:
        experiment: its name, such as "f1".
        settings: everything that it depended on beside the seed.
        seed: the seed.
        fraction_pruned: the share of kernel weights that are zero at the start, 0 to 1.
        evaluations: accuracies, in the order of steps.
        final: test accuracy of the network at the end, synchronised, 0 to 1; None if a search kept
            away from the test images.
        final_reestimated: test accuracy of the same weights when the statistics of batch
            normalisation, which training leaves as its moving averages, are those of training
            images; None without batch normalisation, and in old records.
        final_held_out: accuracy of that network on the training images held out, 0 to 1; None if
            there are none, and in old records.
        is_permutation: whether that network is bitwise a permutation of its initial weights.
        data_fingerprint: SHA-256 of the dataset, as `laperm_lib.paper.datasets.load` gives it.
        seconds: wall time from the start of the command, or of `training.run`, to the last
            evaluation, over all interruptions; None if not measured. In records before December
            2026: from the first step.
        environment: versions, hardware and code revision; where an interrupted run was resumed in
            another one, the values of both.
        measured: what was measured beside, by name. Where training flips images, "flipped" is the
            accuracy, 0 to 1, of the added logits of an image and its mirror image: of the images
            held out, or of the test images if there are none.
        model: the trained network of a run just made; None in a record that was read.
    """

    experiment: str
    settings: Settings
    seed: int
    fraction_pruned: float
    evaluations: tuple[Evaluation, ...] = ()
    final: float | None
    final_reestimated: float | None = None
    final_held_out: float | None = None
    is_permutation: bool
    data_fingerprint: str
    seconds: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    model: keras.Model | None = field(default=None, compare=False, repr=False)

    @property
    def selected(self) -> float | None:
        """The test accuracy of the synchronised network chosen on the images held out, 0 to 1.

        Of the networks right after a synchronisation that were evaluated, and the final one, it is
        the first with the best accuracy on the images held out. The test images had no say in it.
        None if no images were held out.
        """
        choices = [(e.held_out, e.accuracy) for e in self.evaluations if e.since_sync == 0]
        choices.append((self.final_held_out, self.final))  # type: ignore[arg-type]
        measured = [(seen, accuracy) for seen, accuracy in choices if seen is not None]
        return max(measured, key=lambda choice: choice[0])[1] if measured else None

    @property
    def published_protocol(self) -> float | None:
        """The best test accuracy at any evaluation, that of the final network included, 0 to 1.

        The published code picks networks so, at steps that need not be synchronisations. It is an
        optimistic number: the test images choose the step.
        """
        found = [e.accuracy for e in self.evaluations]
        return max([*found, *([] if self.final is None else [self.final])], default=None)

    def best(self, since_sync: int = 0) -> float:
        """The best test accuracy at any evaluation so many steps after a synchronisation.

        Raises:
            ValueError: if there was no such evaluation.
        """
        found = [e.accuracy for e in self.evaluations if e.since_sync == since_sync]
        if not found:
            raise ValueError(f"No evaluation {since_sync} steps after a synchronisation.")
        return max(found)


@cache
def codec() -> cattrs.Converter:
    """Turns settings and records into what JSON holds, and back."""
    made = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    for kind in (str, int, bool):
        made.register_structure_hook(kind, _exactly)
    made.register_structure_hook(float, _number)
    tagged = partial(configure_tagged_union, tag_name="kind")
    for base in (Network, Method):
        include_subclasses(base, made, union_strategy=tagged)
    omit = override(omit=True)
    made.register_unstructure_hook(Record, make_dict_unstructure_fn(Record, made, model=omit))
    made.register_structure_hook(Record, make_dict_structure_fn(Record, made, model=omit))
    return made


def _exactly(value: Any, kind: type) -> Any:
    """A value of that type; cattrs would turn "no" into True, and None into the text "None"."""
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _number(value: Any, kind: type) -> float:
    return float(value) if type(value) is int else _exactly(value, kind)


def to_json(value: Any) -> Any:
    """Records, settings, or what holds them, as JSON holds it; without networks."""
    return codec().unstructure(value)


def from_json(content: Any, kind: type[_T]) -> _T:
    """Undo `to_json`; a ValueError names what does not fit."""
    try:
        return codec().structure(content, kind)
    except cattrs.BaseValidationError as error:
        why = cattrs.transform_error(error, format_exception=_why)
        raise ValueError("; ".join(why[:3])) from None


def _why(error: BaseException, kind: type | None) -> str:
    """What settings say themselves of an impossible value, where cattrs would not."""
    return str(error) if type(error) is ValueError else format_exception(error, kind)


def save(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write records to a JSON file, atomically: a reader sees the old file or the new one.

    Args:
        records: the records, in the order to be kept.
        path: the file; its folder is made if there is none.

    Examples:
        >>> import tempfile
        >>> from laperm_lib.paper import manifest
        >>> shipped = load(manifest.default_folder() / "f1.json")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(shipped, Path(folder, "f1.json"))
        ...     load(Path(folder, "f1.json")) == shipped
        True
    """
    files.write_json(path, [to_json(record) for record in records])


def load(path: str | os.PathLike[str]) -> tuple[Record, ...]:
    """Read the records of a JSON file that `save` has written.

    Raises:
        LaPermError: if there is no such file, or it holds something else.

    Examples:
        >>> from laperm_lib.paper import manifest
        >>> found = load(manifest.default_folder() / "f1.json")
        >>> print(summarise(record.final for record in found))
        81.35 ± 1.73
    """

    def parse(content: Any) -> tuple[Record, ...]:
        return tuple(from_json(entry, Record) for entry in _exactly(content, list))

    return files.read_json(path, parse, holds="records of runs")


def load_one(path: str | os.PathLike[str]) -> Record:
    """Read the one record of a JSON file."""
    found = load(path)
    if len(found) != 1:
        raise LaPermError(f"{path} holds {len(found)} records, not one.")
    return found[0]


def complete(
    path: str | os.PathLike[str],
    planned: Iterable[tuple[Settings, int]],
    train: Callable[..., Record],
    verbose: int = 0,
) -> list[Record]:
    """Train what a file of records lacks, by `train(settings, seed=...)`; write it after each."""
    found = list(load(path)) if Path(path).exists() else []
    planned = list(planned)
    known = [settings for settings, _ in planned]
    if any(record.settings not in known for record in found):
        raise LaPermError(f"{path} holds records of other settings.")
    done = {(record.settings, record.seed) for record in found}
    progress = keras.utils.Progbar(len(planned), verbose=verbose)
    for settings, seed in planned:
        if (settings, seed) not in done:
            found.append(replace(train(settings, seed=seed), model=None))
            keras.utils.clear_session()  # hundreds of models would stay in memory
            save(found, path)
        progress.add(1)
    return found


@dataclass(frozen=True)
class Summary:
    """A number over runs: mean, standard deviation (over n - 1; 0 for one run) and the most."""

    mean: float
    std: float
    most: float
    runs: int

    def __str__(self) -> str:
        """In percent, as in "99.73 ± 0.02"."""
        spread = f" ± {100 * self.std:.2f}" if self.runs > 1 else ""
        return f"{100 * self.mean:.2f}{spread}"


def summarise(numbers: Iterable[float | None]) -> Summary:
    """Mean and standard deviation of a number over runs.

    Raises:
        ValueError: if there is none.

    Examples:
        >>> print(summarise([0.75, 0.77]))
        76.00 ± 1.41
    """
    values = np.array(list(numbers), dtype=float)
    if not values.size:
        raise ValueError("There are no runs to summarise.")
    std = values.std(ddof=1) if values.size > 1 else 0.0
    return Summary(float(values.mean()), float(std), float(values.max()), values.size)
