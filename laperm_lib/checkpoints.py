"""Checkpoints: a training that is killed at any moment goes on as if it had not been.

Keras's BackupAndRestore saves once an epoch, so that a half-done epoch is trained again. Here
everything that the next step depends on is kept after any step: weights, optimizer slots, the
initial values and the step of the last synchronisation, the states of random generators, and the
step, which is the position in the data, for `laperm_lib.batches.Batches` gives the batch of a step
by its number. On one machine the network that a resumed training ends with is bit for bit that of
an uncut one.

A checkpoint is an npz file without pickle, written whole or not at all. The one before it is kept
until the next is complete.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import files
from laperm_lib._arguments import check_number
from laperm_lib.errors import WeightFileError
from laperm_lib.training_state import nested, state_of, steps_taken

_log = logging.getLogger(__name__)

_NOTES, _NAMES = "notes.json", "names.json"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a training was after a step.

    Args:
        step: training steps taken.
        arrays: its state, by name.
        notes: what else was to be remembered: anything JSON can hold.
    """

    step: int
    arrays: dict[str, np.ndarray]
    notes: Any


class Checkpoints:
    """The checkpoints of one training, in a folder of its own.

    Args:
        folder: where they are; made with the first one.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> checkpoints = Checkpoints(folder.name)
        >>> checkpoints.save(20, {"kernel": np.ones(3, "float32")}, notes={"accuracy": 0.5})
        >>> latest = checkpoints.latest()
        >>> latest.step, latest.arrays["kernel"].tolist(), latest.notes
        (20, [1.0, 1.0, 1.0], {'accuracy': 0.5})
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def save(self, step: int, arrays: Mapping[str, np.ndarray], notes: Any = None) -> None:
        """Write a checkpoint, then forget all but it and the one before.

        Any of a later step goes too: it could not be read when this training was taken up.

        Args:
            step: training steps taken, at least 0.
            arrays: the state, by name.
            notes: anything JSON can hold. Default: nothing.

        Raises:
            OSError: if it cannot be written, as on a full disk; the earlier ones are left.
            ValueError: for an array of Python objects.
            TypeError: for notes that JSON cannot hold.
        """
        # An archive that has lost an entry is not noticed by its checksums, hence the names.
        texts = {_NOTES: _text(notes), _NAMES: _text(sorted(arrays))}
        new = self._path(step)
        with files.replaced(new) as file:
            np.savez(file, allow_pickle=False, **texts, **arrays)
        up_to_new = [path for path in self._paths() if path <= new]
        for path in self._paths():
            if path not in up_to_new[-_KEPT:]:
                path.unlink(missing_ok=True)
        self._clear_parts()

    def latest(self) -> Checkpoint | None:
        """The latest checkpoint that can be read, or None; a damaged one is logged and passed over.

        Every array of the file has a checksum, which is compared.
        """
        for path in reversed(self._paths()):
            try:
                return _read(path)
            except WeightFileError as error:
                _log.warning("%s The checkpoint before it is used, if there is one.", error)
        return None

    def steps(self) -> list[int]:
        """The steps of the checkpoints that there are, damaged or not, the latest last."""
        return [_step(path) for path in self._paths()]

    def at(self, step: int) -> Checkpoint:
        """The checkpoint after a step.

        Raises:
            WeightFileError: if there is none, or it is damaged.
        """
        if not self._path(step).exists():
            raise WeightFileError(f"{self.folder} holds no checkpoint after step {step}.")
        return _read(self._path(step))

    def clear(self) -> None:
        """Delete them all: the training is finished."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        self._clear_parts()

    def _clear_parts(self) -> None:
        for path in files.parts_of(self.folder, "checkpoint-*"):
            path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.npz"

    def _paths(self) -> list[Path]:
        """The files, the latest step last."""
        return sorted(self.folder.glob("checkpoint-?????????.npz"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))


def _read(path: Path) -> Checkpoint:
    arrays = files.read_arrays(path)
    try:
        notes, names = (json.loads(arrays.pop(name).tobytes()) for name in (_NOTES, _NAMES))
    except (KeyError, ValueError):
        raise WeightFileError(f"{path} is no checkpoint.") from None
    if sorted(arrays) != names:
        raise WeightFileError(f"{path} is damaged: it does not hold all that was written.")
    return Checkpoint(_step(path), arrays, notes)


def _text(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so often during `fit`, after whatever step has just ended.

    To go on after a cut, bring a model built and compiled in the same way into the state of the
    latest checkpoint with `laperm_lib.training_state.restore`, and fit it on
    `Batches(..., first_step=checkpoint.step)`. A checkpoint that cannot be written, because the
    disk is full, is logged as a warning; training goes on and the last good one stays. The
    optimizer's step count has to be the position in the data, so gradients cannot be accumulated
    over steps, nor the loss scaled so that a step may be skipped.

    Args:
        checkpoints: where to.
        every_seconds: the time between two checkpoints, in seconds, at least 0. Default 60.
        notes: called for what is to be remembered beside the state: anything JSON can hold.
            Default: nothing.

    Raises:
        ValueError: if `checkpoints` is something else, such as a folder, or `every_seconds` is
            negative.
        ValueError: when `fit` starts, if the optimizer does not count every step.

    Examples:
        >>> import tempfile
        >>> from laperm_lib import LaPerm
        >>> from laperm_lib.batches import Batches
        >>> from laperm_lib.training_state import restore
        >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
        >>> def compiled():
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        ...     model.compile(LaPerm("adam", sync_period=2), loss="mse")
        ...     return model
        >>> def batches(first_step):
        ...     return Batches(x, y, batch_size=2, epochs=3, seed=0, first_step=first_step)
        >>> folder = tempfile.TemporaryDirectory()
        >>> saving = SaveCheckpoints(Checkpoints(folder.name), every_seconds=0)
        >>> history = compiled().fit(batches(0), shuffle=False, verbose=0, callbacks=[saving])
        >>> latest = Checkpoints(folder.name).latest()  # in another process, say
        >>> resumed = compiled()
        >>> restore(resumed, latest.arrays)
        >>> int(resumed.optimizer.iterations) == latest.step
        True
        >>> folder.cleanup()
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every_seconds: float = 60,
        notes: Callable[[], Any] = lambda: None,
    ) -> None:
        super().__init__()
        if not isinstance(checkpoints, Checkpoints):
            raise ValueError(f"checkpoints is Checkpoints(folder), got {checkpoints!r}.")
        check_number("every_seconds", every_seconds, at_least=0)
        self._checkpoints, self._every_seconds, self._notes = checkpoints, every_seconds, notes
        self._saved = time.monotonic()

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse an optimizer whose step count is not the position in the data."""
        for optimizer in nested(self.model.optimizer):
            is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if is_scaling or getattr(optimizer, "gradient_accumulation_steps", None):
                what = "skips steps" if is_scaling else "accumulates gradients"
                raise ValueError(
                    f"{type(optimizer).__name__} {what}, so its step count does not say which "
                    "batch comes next, and a training could not be taken up where it was cut."
                )

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Save, if it is time."""
        if time.monotonic() - self._saved < self._every_seconds:
            return
        try:
            self.save()
        except OSError as error:
            _log.warning("No new checkpoint, training goes on: %s", error)
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save a checkpoint now.

        Raises:
            OSError: if it cannot be written, as on a full disk; the earlier ones are left.
        """
        model = self.model  # with JAX, asking for it gives it its state back
        self._checkpoints.save(steps_taken(model), state_of(model), self._notes())
