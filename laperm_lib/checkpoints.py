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
from laperm_lib.errors import WeightFileError

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
            notes: anything JSON can hold.

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


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Everything that the next training step of a compiled model depends on, but for its data.

    Args:
        model: built and compiled, and its optimizer built, as after a training step.

    Returns:
        Arrays by name. They hold weights, states of random generators, and all of the optimizer's
        variables. Those of a type that NumPy does not have itself, as bfloat16, are the unsigned
        integers of the same bits.
    """
    return {
        name: _storable(np.array(keras.ops.convert_to_numpy(variable)))
        for name, variable in _variables(model).items()
    }


def _storable(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _restored(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array.view(dtype) if dtype.kind == "V" else array


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Bring a model and its optimizer into a state that `state_of` gave.

    Args:
        model: built and compiled as the one that the state is from, with the same optimizer. The
            optimizer is built here if it is not yet.
        arrays: the state.

    Raises:
        WeightFileError: if the state is of another model or optimizer; nothing is changed then.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    if variables.keys() != arrays.keys():
        differing = sorted(variables.keys() ^ arrays.keys())
        raise WeightFileError(f"The state is of another model: {', '.join(differing[:3])} differ.")
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise WeightFileError(
                f"The state is of another model: {name} has shape {arrays[name].shape}, "
                f"not {tuple(variable.shape)}."
            )
    for name, variable in variables.items():
        # Keras has imported ml_dtypes, by which NumPy knows bfloat16 and its like by name.
        variable.assign(_restored(arrays[name], np.dtype(variable.dtype)))


def _variables(model: keras.Model) -> dict[str, Any]:
    """All variables by a name that is theirs alone: numbers, for layers may share a name."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {
        f"{part}/{number:04d}": variable
        for part, variables in parts.items()
        for number, variable in enumerate(variables)
    }


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so often during `fit`, after whatever step has just ended.

    To go on after a cut, `restore` the arrays of the latest checkpoint into a model built and
    compiled in the same way, and fit it on `Batches(..., first_step=checkpoint.step)`. A checkpoint
    that cannot be written, because the disk is full, is logged as a warning; training goes on and
    the last good one stays. The optimizer's step count has to be the position in the data, so
    gradients cannot be accumulated over steps, nor the loss scaled so that a step may be skipped.

    Args:
        checkpoints: where to.
        every_seconds: the time between two checkpoints, in seconds, at least 0. Default 60.
        notes: called for what is to be remembered beside the state: anything JSON can hold.

    Raises:
        ValueError: if `every_seconds` is negative.
        ValueError: when `fit` starts, if the optimizer does not count every step.

    Examples:
        >>> import tempfile
        >>> from laperm_lib import LaPerm
        >>> from laperm_lib.batches import Batches
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
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds is at least 0, got {every_seconds!r}.")
        self._checkpoints, self._every_seconds, self._notes = checkpoints, every_seconds, notes
        self._saved = time.monotonic()

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse an optimizer whose step count is not the position in the data."""
        optimizer = self.model.optimizer
        while optimizer is not None:
            is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if is_scaling or getattr(optimizer, "gradient_accumulation_steps", None):
                what = "skips steps" if is_scaling else "accumulates gradients"
                raise ValueError(
                    f"{type(optimizer).__name__} {what}, so its step count does not say which "
                    "batch comes next, and a training could not be taken up where it was cut."
                )
            optimizer = getattr(optimizer, "inner_optimizer", None)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Save, if it is time."""
        if time.monotonic() - self._saved < self._every_seconds:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        # Not from `batch`: in a last, shorter execution Keras counts it beyond the end.
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        try:
            self._checkpoints.save(step, state_of(self.model), self._notes())
        except OSError as error:
            _log.warning("No checkpoint after step %d, training goes on: %s", step, error)
        self._saved = time.monotonic()
