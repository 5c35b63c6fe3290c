"""Run folders: each training has one, where it is interrupted, resumed, and never done twice.

A folder is named by experiment, seed and what differs from the published settings, as in
`conv7-seed0` or `conv7-seed0-5d41f2aa`. In it are::

    configuration.json   experiment, seed, settings and when it is evaluated
    checkpoint-*.npz     the two latest checkpoints, until the run is finished
    record.json          the record; a run is finished when this is there
    network.npz          the weights of the network it ended with

All are written whole or not at all, and what a killed process has left is deleted by the next one
that works on the run. Processes that share nothing but a file system can work on one set of
folders: a lock, which ends with its process, keeps two from training the same run.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import files, weight_vectors
from laperm_lib._arguments import check_name
from laperm_lib._random import check_seed
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import records
from laperm_lib.paper.locks import locked
from laperm_lib.paper.records import Record, from_json, to_json
from laperm_lib.paper.settings import EXPERIMENTS, Settings, fingerprint
from laperm_lib.paper.training import Stopped, run
from laperm_lib.synchronisation.projections import Permutations

_log = logging.getLogger(__name__)

RUNS_DIR = "LAPERM_RUNS_DIR"
"""The environment variable with the folder of all run folders."""

_RECORD, _NETWORK, _LOCK = "record.json", "network.npz", "lock"
_CONFIGURATION = "configuration.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def default_root() -> Path:
    """Where run folders are if nothing else is said: `$LAPERM_RUNS_DIR`, or `runs`."""
    return Path(os.environ.get(RUNS_DIR, "runs"))


@dataclass(frozen=True)
class Task:
    """One training: what decides every bit of it.

    Args:
        experiment: a key of `settings.EXPERIMENTS`.
        settings: everything beside the seed.
        seed: an integer of at least 0.
        evaluate_after: as for `training.run`. Default: right after synchronisations.

    Raises:
        ValueError: if the experiment or the seed cannot be.

    Examples:
        >>> Task("conv7", EXPERIMENTS["conv7"], seed=1).name
        'conv7-seed1'
    """

    experiment: str
    settings: Settings
    seed: int
    evaluate_after: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_name("experiment", self.experiment, EXPERIMENTS)

    @classmethod
    def of(cls, record: Record) -> "Task":
        """The training that a record tells of."""
        return cls(record.experiment, record.settings, record.seed)

    @property
    def name(self) -> str:
        """The name of its folder."""
        differing = fingerprint(self.settings, EXPERIMENTS[self.experiment])
        return "-".join(filter(None, [self.experiment, f"seed{self.seed}", differing]))


class RunFolder:
    """The folder of one training.

    Args:
        root: where all run folders are.
        task: the training.

    Raises:
        LaPermError: if the folder is that of another training, or of an earlier version.

    Examples:
        >>> import tempfile
        >>> from laperm_lib.paper.settings import quick
        >>> task = Task("f1", quick("f1").replace(epochs=2), seed=0)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     record = RunFolder(root, task).run()
        ...     RunFolder(root, task).is_finished, record.is_permutation
        (True, True)
    """

    def __init__(self, root: str | os.PathLike[str], task: Task) -> None:
        self.task = task
        self.path = Path(root, task.name)
        self.checkpoints = Checkpoints(self.path)
        self._check()

    @property
    def is_finished(self) -> bool:
        """Whether the training has been done."""
        return (self.path / _RECORD).exists()

    def run(self, **how: Any) -> Record:
        """Train, or resume what was interrupted; a finished run is not run again.

        Args:
            **how: `data_dir`, `every_seconds`, `stop` and `verbose`, as for `training.run`.

        Raises:
            BusyError: if another process trains this run; else the errors of `training.run`.
            OSError: if the folder cannot be written.
        """
        with self.lock():
            if self.is_finished:
                record = self.record()
                _log.info("%s is finished already.", self.path)
            else:
                record = run(
                    self.task.settings,
                    seed=self.task.seed,
                    experiment=self.task.experiment,
                    evaluate_after=self.task.evaluate_after,
                    checkpoints=self.checkpoints,
                    **how,
                )
                self._keep(record)
                _log.info("The record and the network are in %s", self.path)
            self.checkpoints.clear()  # whoever finished the run may have been killed before
            return record

    def record(self) -> Record:
        """The record of a finished run; a LaPermError if it is of another one."""
        record, parts = records.load_one(self.path / _RECORD), ("experiment", "settings", "seed")
        if any(getattr(record, part) != getattr(self.task, part) for part in parts):
            raise LaPermError(f"{self.path / _RECORD} is the record of another training.")
        return record

    def state(self) -> "State":
        """How far the training is; nothing is written."""
        if self.is_finished:
            return State(self.task, 0, self.record())
        return State(self.task, max(self.checkpoints.steps(), default=0), None)

    def clean(self) -> None:
        """Delete what killed processes have left of a finished run."""
        with self.lock():
            self.checkpoints.clear()

    def network(self) -> keras.Model:
        """The network that a finished run ended with."""
        return read_network(self.path, self.record())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from this run; the lock ends with the process."""
        with locked(self.path / _LOCK):
            self._check()
            files.delete_parts(self.path)
            if not (self.path / _CONFIGURATION).exists():
                files.write_json(self.path / _CONFIGURATION, to_json(self.task))
            try:
                yield
            except Stopped:
                raise
            except Exception:
                if {path.name for path in self.path.iterdir()} <= {_CONFIGURATION, _LOCK}:
                    shutil.rmtree(self.path)
                raise

    def _keep(self, record: Record) -> None:
        """Write what a run ended with; on a full disk, in the place of its checkpoints."""
        left = [self.checkpoints.path(step) for step in self.checkpoints.steps()]
        deleted, content = self.path, b""
        while True:
            try:
                return write(self.path, record)
            except BaseException as error:
                if not left or getattr(error, "errno", None) not in _FULL:
                    if content:  # what was deleted last goes back: the run can be resumed from it
                        with suppress(OSError), files.replaced(deleted) as file:
                            file.write(content)
                    raise
                deleted = left.pop(0)
                content = deleted.read_bytes()
                deleted.unlink()
                _log.warning("%s. %s is deleted to make room.", error, deleted)

    def _check(self) -> None:
        if not (self.path / _CONFIGURATION).exists():
            return
        found = _read_task(self.path)
        names = [field.name for field in fields(Task)]
        differing = [name for name in names if getattr(found, name) != getattr(self.task, name)]
        if differing:
            raise LaPermError(
                f"{self.path} holds another training of {self.task.experiment}: "
                f"{', '.join(differing)} differs in its {_CONFIGURATION}. "
                "Take another folder for all runs, or delete this one."
            )


def write(path: Path, record: Record) -> None:
    """Write a run just done into a folder: the network, then the record, which says it is there."""
    assert record.model is not None
    with files.replaced(path / _NETWORK) as file:
        weights = {w.path: keras.ops.convert_to_numpy(w) for w in record.model.weights}
        np.savez(file, allow_pickle=False, **weights)
    records.save([record], path / _RECORD)


def read(path: str | os.PathLike[str]) -> Record:
    """The record of a finished run, with its network as `model`."""
    record = records.load_one(Path(path, _RECORD))
    return replace(record, model=read_network(Path(path), record))


def read_network(path: Path, record: Record) -> keras.Model:
    """Build the network of a run, with the weights that `write` has written into its folder."""
    model, _ = record.settings.network.build(record.seed)
    arrays = files.read_arrays(path / _NETWORK)
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    if shapes != {name: array.shape for name, array in arrays.items()}:
        raise WeightFileError(f"{path / _NETWORK} does not hold the weights of {model.name}.")
    for weight in model.weights:
        weight.assign(arrays[weight.path])
    return model


def tasks_in(root: str | os.PathLike[str]) -> Sequence[Task]:
    """The trainings that have a folder, finished or not, by name.

    One that was renamed has none, nor has one that cannot be read; a warning says so.
    """
    found = []
    for path in sorted(Path(root).glob("*/")):
        try:
            if _CONFIGURATION not in os.listdir(path):
                continue
            task = _read_task(path)
        except (ValueError, OSError) as error:
            _log.warning("%s is skipped: %s", path, error)
            continue
        if path.name == task.name:
            found.append(task)
        else:
            _log.warning("%s is skipped: it was named %s.", path, task.name)
    return found


def _read_task(path: Path) -> Task:
    def parse(values: dict[str, Any]) -> Task:
        if "network" not in values["settings"]:
            raise ValueError("it was made by an earlier version of laperm_lib; take another folder")
        return from_json(values, Task)

    return files.read_json(path / _CONFIGURATION, parse, holds="the configuration of a run")


@dataclass(frozen=True)
class State:
    """How far a training is: its task, the latest checkpoint's step, and its record if finished."""

    task: Task
    step: int
    record: Record | None


def states(
    root: str | os.PathLike[str], shipped: str | os.PathLike[str] | None = None
) -> list[State]:
    """All trainings that have been begun, by name; nothing is written.

    A record of the folder `shipped` counts where the run folders in `root` have none.
    """
    found: dict[str, State] = {}
    for record in shipped_records(shipped) if shipped is not None else ():
        task = Task.of(record)
        # The record beside a shipped network, f1-seed0.json, comes before f1.json.
        found.setdefault(task.name, State(task, 0, record))
    for task in tasks_in(root):
        try:
            state = RunFolder(root, task).state()
        except (ValueError, OSError) as error:
            _log.warning("%s is skipped: %s", Path(root, task.name), error)
            continue
        if state.record is not None or task.name not in found:
            found[task.name] = state
    return [found[name] for name in sorted(found)]


def shipped_records(folder: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of the paper's experiments in the JSON files of a folder."""
    for path in sorted(Path(folder).glob("*.json")):
        if path.name != "manifest.json":
            yield from (r for r in records.load(path) if r.experiment in EXPERIMENTS)


def add_records(
    paths: Iterable[str | os.PathLike[str]], destination: str | os.PathLike[str]
) -> tuple[list[str], list[str]]:
    """Add records that were made elsewhere to those of a folder.

    Args:
        paths: run folders, or JSON files of records.
        destination: the folder; a record goes into the file of its experiment there.

    Returns:
        The names of the trainings that were added, and of those that the folder had already.

    Raises:
        LaPermError: if a record contradicts itself, or the network beside it; nothing is written.

    Examples:
        >>> import tempfile
        >>> from laperm_lib.paper import manifest
        >>> path = manifest.default_folder() / "conv7-seed0-7b5760fc.json"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     add_records([path], folder), add_records([path], folder)
        ((['conv7-seed0-7b5760fc'], []), ([], ['conv7-seed0-7b5760fc']))
    """
    destination = Path(destination)
    given: list[tuple[str, Record]] = []
    for path in map(Path, paths):
        for record in [records.load_one(path / _RECORD)] if path.is_dir() else records.load(path):
            given.append((_checked(record, path).name, record))
    added: dict[str, Record] = {}
    skipped = []
    with locked(destination / ".lock", wait=60):
        known = {Task.of(record).name for record in shipped_records(destination)}
        for name, record in given:
            if name in known or name in added:
                skipped.append(name)
            else:
                added[name] = record
        for experiment in dict.fromkeys(record.experiment for record in added.values()):
            file = destination / f"{experiment}.json"
            files.delete_parts(destination, file.name)
            old = records.load(file) if file.exists() else ()
            new = [record for record in added.values() if record.experiment == experiment]
            records.save([*old, *new], file)
    return list(added), skipped


def _checked(record: Record, path: Path) -> Task:
    """The task of a record; a LaPermError if the record is wrong, or the network in its folder."""
    try:
        task = Task.of(record)
    except ValueError as error:
        raise LaPermError(f"{path}: {error}") from None
    measured = [record.final, record.final_reestimated, record.final_held_out]
    measured += [n for each in record.evaluations for n in (each.accuracy, each.held_out)]
    if record.final is None or not all(0 <= n <= 1 for n in measured if n is not None):
        raise LaPermError(f"{path}: an accuracy is not a number from 0 to 1.")
    steps = [evaluation.step for evaluation in record.evaluations]
    if steps != sorted(set(steps)):
        raise LaPermError(f"{path}: the evaluations are not in the order of steps.")
    permuted, projection = record.settings.method.permuted, record.settings.method.projection
    if projection is None:
        return task
    holds = record.is_permutation or not isinstance(projection, Permutations)
    if path.is_dir():
        initial, _ = record.settings.network.build(record.seed)
        before = weight_vectors.matrices(initial, permuted)
        after = weight_vectors.matrices(read_network(path, record), permuted)
        holds &= all(map(projection.allows, after, before))
    if not holds:
        raise LaPermError(f"{path}: the network is not a {projection.name} of its initial weights.")
    return task
