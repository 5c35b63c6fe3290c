"""Records of runs: what was trained where, and what came out, as JSON; and their summaries.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5 (the table that the summaries stand beside).
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from laperm_lib import files
from laperm_lib.errors import LaPermError
from laperm_lib.paper.experiments.evaluation import Evaluation
from laperm_lib.paper.experiments.hyperparameters import from_json, to_json
from laperm_lib.paper.experiments.outcome import Outcome, Run


@dataclass(frozen=True)
class Record(Outcome):
    """What is kept of a training: everything but the network.

    Args:
        experiment: its name, such as "f1".
        environment: versions, hardware and code revision, as for
            `laperm_lib.paper.experiments.outcome.Run`.
    """

    experiment: str
    environment: dict[str, str]


def record(experiment: str, run: Run) -> Record:
    """Keep what is known of a run.

    Args:
        experiment: its name.
        run: the run.
    """
    outcome = {field.name: getattr(run, field.name) for field in fields(Outcome)}
    return Record(**outcome, experiment=experiment, environment=run.environment)


def save(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write records to a JSON file, atomically: a reader sees the old file or the new one.

    Args:
        records: the records, in the order to be kept.
        path: the file; its folder is made if there is none.
    """
    files.write_json(path, [_to_json(entry) for entry in records])


def load(path: str | os.PathLike[str]) -> tuple[Record, ...]:
    """Read the records of a JSON file.

    Args:
        path: a file written by `save`.

    Raises:
        LaPermError: if there is no such file, or it does not hold records.
    """
    return files.read_json(
        path, lambda entries: tuple(map(_from_json, entries)), holds="records of runs"
    )


def load_one(path: str | os.PathLike[str]) -> Record:
    """Read the one record of a JSON file.

    Args:
        path: a file written by `save`.

    Raises:
        LaPermError: if there is no such file, or it does not hold one record.
    """
    found = load(path)
    if len(found) != 1:
        raise LaPermError(f"{path} holds {len(found)} records, not one.")
    return found[0]


def _to_json(entry: Record) -> dict[str, Any]:
    return asdict(entry) | {"hyperparameters": to_json(entry.hyperparameters)}


def _from_json(values: dict[str, Any]) -> Record:
    evaluations = tuple(Evaluation(**evaluation) for evaluation in values["evaluations"])
    settings = from_json(values["hyperparameters"])
    return Record(**{**values, "hyperparameters": settings, "evaluations": evaluations})


@dataclass(frozen=True)
class Summary:
    """Mean and spread of a number over runs.

    Args:
        mean: the mean.
        spread: the standard deviation over runs (n - 1 in the denominator); 0 for a single run.
        least: the smallest.
        most: the largest.
        runs: how many.
    """

    mean: float
    spread: float
    least: float
    most: float
    runs: int


def summarise(numbers: Iterable[float]) -> Summary:
    """Mean and spread of a number over runs.

    Raises:
        ValueError: if there are none.

    Examples:
        >>> summarise([0.5, 1.0]).mean
        0.75
    """
    values = np.array(list(numbers), dtype=float)
    if not values.size:
        raise ValueError("There are no runs to summarise.")
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return Summary(
        float(values.mean()), float(spread), float(values.min()), float(values.max()), values.size
    )
