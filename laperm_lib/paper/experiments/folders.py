"""Run folders: each training has one, where it is cut, taken up again, and never done twice.

A folder is named by experiment, seed and what differs from the published settings, as in
`conv7-seed0` or `conv7-seed0-5d41f2aa`. In it are::

    configuration.json   experiment, seed, settings and where it is evaluated
    checkpoint-*.npz     the two latest checkpoints, until the run is finished
    record.json          what came out; a run is finished when this is there
    network.npz          the weights of the network it ended with

All are written whole or not at all. Processes that share nothing but a file system can work on one
set of folders: a lock of the operating system, which goes with the process that held it, keeps two
from training the same run.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import files
from laperm_lib._random import check_seed
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper.experiments import records, training
from laperm_lib.paper.experiments.hyperparameters import (
    Hyperparameters,
    fingerprint,
    from_json,
    to_json,
)
from laperm_lib.paper.experiments.outcome import Run
from laperm_lib.paper.experiments.profiles import PUBLISHED
from laperm_lib.paper.experiments.records import Record
from laperm_lib.paper.experiments.stopping import StopCheck, Stopped, never
from laperm_lib.paper.initial_network import InitialNetwork
from laperm_lib.paper.locks import locked

_log = logging.getLogger(__name__)

RUNS_DIR = "LAPERM_RUNS_DIR"
"""The environment variable with the folder of all run folders."""

RECORD, NETWORK = "record.json", "network.npz"
"""The files with what came out."""

_CONFIGURATION_FILE = "configuration.json"
_CONFIGURATION = "the configuration of a run"
_LOCK = "lock"


def default_root() -> Path:
    """Where run folders are if nothing else is said: `$LAPERM_RUNS_DIR`, or `runs`."""
    return Path(os.environ.get(RUNS_DIR, "runs"))


@dataclass(frozen=True)
class Task:
    """One training: what decides every bit of it.

    Args:
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        settings: the hyperparameters.
        seed: an integer of at least 0.
        evaluate_after: as for `laperm_lib.paper.experiments.run`.

    Raises:
        ValueError: if the experiment is unknown, the seed not an integer of at least 0, or the
            settings those of another way of training.

    Examples:
        >>> from dataclasses import replace
        >>> Task("conv7", PUBLISHED["conv7"], 0).name
        'conv7-seed0'
        >>> Task("conv7", replace(PUBLISHED["conv7"], sync_period=20), 0).name
        'conv7-seed0-...'
    """

    experiment: str
    settings: Hyperparameters
    seed: int
    evaluate_after: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
        if type(self.settings) is not Hyperparameters:
            raise ValueError(
                f"A run folder trains by LaPerm or Adam, not with {type(self.settings).__name__}."
            )
        if self.experiment not in PUBLISHED:
            raise ValueError(
                f"Unknown experiment {self.experiment!r}; there are {', '.join(PUBLISHED)}."
            )

    @property
    def name(self) -> str:
        """The name of its folder."""
        differing = fingerprint(self.settings, PUBLISHED[self.experiment])
        return "-".join(filter(None, [self.experiment, f"seed{self.seed}", differing]))


class RunFolder:
    """The folder of one training.

    Args:
        root: where all run folders are. The folder is made when the training begins.
        task: the training.

    Raises:
        LaPermError: if a folder of that name holds another training.
    """

    def __init__(self, root: str | os.PathLike[str], task: Task) -> None:
        self.task = task
        self.path = Path(root, task.name)
        self.checkpoints = Checkpoints(self.path)
        self._configuration = self.path / _CONFIGURATION_FILE
        self._check()

    @property
    def is_finished(self) -> bool:
        """Whether the training has been done."""
        return self._record.exists()

    def run(
        self,
        *,
        data_dir: str | None = None,
        every_seconds: float = 60,
        stop: StopCheck = never,
        verbose: int = 0,
    ) -> Record:
        """Train, or go on from where it was cut; a finished run is not run again.

        Args:
            data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
            every_seconds: the time between two checkpoints, in seconds. Default 60.
            stop: asked after steps; when it says yes, a checkpoint is written and training stops.
                Default: never.
            verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

        Returns:
            The record.

        Raises:
            BusyError: if another process is at it.
            DatasetUnavailableError: if the data cannot be had.
            Stopped: if `stop` said so.
        """
        with self.lock():
            if self.is_finished:
                _log.info("%s is finished already.", self.path)
                return self.record()
            done = training.run(
                self.task.settings,
                seed=self.task.seed,
                data_dir=data_dir,
                evaluate_after=self.task.evaluate_after,
                checkpoints=self.checkpoints,
                every_seconds=every_seconds,
                stop=stop,
                verbose=verbose,
            )
            return self.keep(done)

    def keep(self, done: Run) -> Record:
        """Write what came out of a run, and forget its checkpoints."""
        record = write_outcome(self.path, self.task.experiment, done)
        self.checkpoints.clear()
        _log.info("What came out is in %s", self.path)
        return record

    def record(self) -> Record:
        """What came out.

        Raises:
            LaPermError: if the run is not finished, or the file is damaged.
        """
        return records.load_one(self._record)

    def network(self) -> keras.Model:
        """The network that the run ended with.

        Raises:
            LaPermError: if the run is not finished, or the file is damaged.
        """
        initial = training.initial_network(self.task.settings, self.task.seed)
        return read_network(self.path / NETWORK, initial)

    @property
    def _record(self) -> Path:
        return self.path / RECORD

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from this run; the lock goes with the process.

        A training that fails before its first checkpoint, for want of its data say, leaves no
        folder.

        Raises:
            BusyError: if another process has it.
            LaPermError: if this file system has no locks.
        """
        with locked(self.path / _LOCK):
            self._check()
            if not self._configuration.exists():
                files.write_json(self._configuration, _configuration(self.task))
            try:
                yield
            except Stopped:
                raise
            except Exception:
                if {path.name for path in self.path.iterdir()} <= {_CONFIGURATION_FILE, _LOCK}:
                    shutil.rmtree(self.path)
                raise

    def _check(self) -> None:
        """Raise a LaPermError if the folder is that of another training."""
        if not self._configuration.exists():
            return
        wanted, found = (
            _configuration(self.task),
            files.read_json(self._configuration, dict, holds=_CONFIGURATION),
        )
        if found != wanted:
            differing = [name for name in wanted if found.get(name) != wanted[name]]
            raise LaPermError(
                f"{self.path} holds another training of {self.task.experiment}: "
                f"{', '.join(differing) or 'something'} differs in its {_CONFIGURATION_FILE}. "
                "Take another folder for all runs, or delete this one."
            )


def write_outcome(path: Path, experiment: str, done: Run) -> Record:
    """Write what came out of a run into its folder: the network, and the record, last."""
    with files.replaced(path / NETWORK) as file:
        weights = {w.path: keras.ops.convert_to_numpy(w) for w in done.model.weights}
        np.savez(file, allow_pickle=False, **weights)
    record = records.record(experiment, done)
    records.save([record], path / RECORD)
    return record


def read_network(path: Path, initial: InitialNetwork) -> keras.Model:
    """Build the network of a run, with the weights that `write_outcome` has written.

    Args:
        path: the file with the weights.
        initial: how the network started.

    Raises:
        WeightFileError: if there is no such file, it is damaged, or holds another network.
    """
    model, _ = initial.build()
    arrays = files.read_arrays(path)
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    if shapes != {name: array.shape for name, array in arrays.items()}:
        raise WeightFileError(f"{path} does not hold the weights of {initial.model}.")
    for weight in model.weights:
        weight.assign(arrays[weight.path])
    return model


def tasks_in(root: str | os.PathLike[str]) -> Sequence[Task]:
    """The trainings that have a folder, finished or not, by name; one that was renamed has none.

    Args:
        root: where all run folders are.

    Raises:
        LaPermError: if a configuration cannot be read.
    """
    found = []
    for file in sorted(Path(root).glob(f"*/{_CONFIGURATION_FILE}")):
        task = files.read_json(file, _task, holds=_CONFIGURATION)
        if file.parent.name == task.name:
            found.append(task)
        else:
            _log.warning("%s is passed over: it has been %s.", file.parent, task.name)
    return found


def _configuration(task: Task) -> dict[str, object]:
    return {
        "experiment": task.experiment,
        "seed": task.seed,
        "settings": to_json(task.settings),
        "evaluate_after": list(task.evaluate_after),
    }


def _task(configuration: dict[str, Any]) -> Task:
    return Task(
        configuration["experiment"],
        from_json(configuration["settings"]),
        configuration["seed"],
        tuple(configuration["evaluate_after"]),
    )
