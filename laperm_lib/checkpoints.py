"""Checkpoints: a training that is killed at any moment resumes as if it had not been.

Keras's BackupAndRestore saves once an epoch, so that a half-done epoch is trained again. Here
everything that the next step depends on is kept after any step: weights, the optimizer's variables,
the states of random generators, and the step, which is the position in the data, because
`laperm_lib.batches.Batches` gives the batch of a step by its number. On one machine a resumed
training ends with bit for bit the network of an uninterrupted one.

A checkpoint is an npz file without pickle, written whole or not at all.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import files
from laperm_lib._arguments import check_number
from laperm_lib.batches import read_ahead as read_ahead  # what a resumed training is fitted on
from laperm_lib.errors import WeightFileError
from laperm_lib.optimizers.permuting import nested, steps_taken

_log = logging.getLogger(__name__)

_NOTES, _NAMES = "notes.json", "names.json"
_KEPT = 2
_MODEL = "model/"


@dataclass(frozen=True)
class Checkpoint:
    """A training after so many steps: its state as arrays by name, and the notes saved with it."""

    step: int
    arrays: dict[str, np.ndarray]
    notes: Any


class Checkpoints:
    """The checkpoints of one training, in a folder of its own, which the first one makes.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoints(folder).save(20, {"kernel": np.ones(3)}, notes={"accuracy": 0.5})
        ...     latest = Checkpoints(folder).latest()
        >>> latest.step, latest.arrays["kernel"].tolist(), latest.notes
        (20, [1.0, 1.0, 1.0], {'accuracy': 0.5})
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def save(self, step: int, arrays: Mapping[str, np.ndarray], notes: Any = None) -> None:
        """Write a checkpoint, then delete all but it and the one before it.

        Later ones go too: they could not be read when this training was resumed. An OSError if it
        cannot be written, as on a full disk; the earlier ones stay. A ValueError for an array of
        Python objects, a TypeError for notes that JSON cannot hold.
        """
        # An archive that has lost an entry is not noticed by its checksums, hence the names.
        texts = {_NOTES: _text(notes), _NAMES: _text(sorted(arrays))}
        new = self.folder / f"checkpoint-{step:09d}.npz"
        with files.replaced(new) as file:
            np.savez(file, allow_pickle=False, **texts, **arrays)
        up_to_new = [path for path in self._paths() if path <= new]
        self._delete_all_but(up_to_new[-_KEPT:])

    def latest(self) -> Checkpoint | None:
        """The latest checkpoint that can be read, or None; a damaged one is logged and skipped."""
        for path in reversed(self._paths()):
            try:
                return _read(path)
            except WeightFileError as error:
                _log.warning("%s The checkpoint before it is used, if there is one.", error)
        return None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged or not, the latest last."""
        return [_step(path) for path in self._paths()]

    def clear(self) -> None:
        """Delete all of them: the training is finished."""
        self._delete_all_but([])

    def _delete_all_but(self, kept: Sequence[Path]) -> None:
        """Delete the other files, and what killed processes have left."""
        parts = files.parts_of(self.folder, "checkpoint-*")
        for path in {*self._paths(), *parts}.difference(kept):
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The files, the latest step last."""
        return sorted(self.folder.glob("checkpoint-?????????.npz"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))


def _read(path: Path) -> Checkpoint:
    arrays = files.read_arrays(path)
    try:
        notes, names = (json.loads(arrays.pop(name).tobytes()) for name in (_NOTES, _NAMES))
    except (KeyError, ValueError, RecursionError):
        raise WeightFileError(f"{path} is not a checkpoint.") from None
    if sorted(arrays) != names:
        raise WeightFileError(f"{path} is damaged: it does not hold all that was written.")
    return Checkpoint(_step(path), arrays, notes)


def _text(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


# -- the state of a training -----------------------------------------------------------------------


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Everything that the next training step of a compiled model depends on, except its data.

    Args:
        model: built and compiled, and its optimizer built, as after a training step; a ValueError
            if it is not compiled.

    Returns:
        The arrays of weights, random generators and all variables of the optimizer, by name. A
        type that NumPy lacks, such as bfloat16, is stored as unsigned integers of the same bits.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> list(state_of(model))
        ['model/0000', 'model/0001', 'optimizer/SGD/0000', 'optimizer/SGD/0001']
    """
    return {
        name: _storable(np.array(keras.ops.convert_to_numpy(variable)))
        for name, variable in (_of_model(model) | _of_optimizer(model)).items()
    }


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Bring a model and its optimizer into a state that `state_of` gave.

    Args:
        model: built and compiled as the one that the state is from. Its optimizer is built here if
            it is not yet.
        arrays: the state, `Checkpoint.arrays`.

    Raises:
        ValueError: if the model is not compiled, or `arrays` is not a mapping.
        WeightFileError: if the state is of another model or optimizer; no value is changed then.

    Examples:
        See `SaveCheckpoints`.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"A state is a mapping, checkpoint.arrays; got {type(arrays).__name__}.")
    in_model = {name: array for name, array in arrays.items() if name.startswith(_MODEL)}
    values = _checked(in_model, _of_model(model))
    # Not earlier: LaPerm takes the weights that it is built with for the initial ones.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    in_optimizer = {name: arrays[name] for name in arrays.keys() - in_model.keys()}
    values += _checked(in_optimizer, _of_optimizer(model))
    for variable, value in values:
        variable.assign(value)


def _of_model(model: keras.Model) -> dict[str, Any]:
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"'{model.name}' is not compiled, so there is no state of an optimizer.")
    return _numbered(_MODEL, model.variables)


def _of_optimizer(model: keras.Model) -> dict[str, Any]:
    # With the classes: several of Keras's optimizers have variables of the same shapes.
    kinds = [type(optimizer).__name__ for optimizer in nested(model.optimizer)]
    return _numbered("/".join(["optimizer", *kinds, ""]), model.optimizer.variables)


def _numbered(prefix: str, variables: Sequence[Any]) -> dict[str, Any]:
    """Variables by number: layers may share a name."""
    return {f"{prefix}{number:04d}": variable for number, variable in enumerate(variables)}


def _storable(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _checked(
    arrays: Mapping[str, np.ndarray], variables: Mapping[str, Any]
) -> list[tuple[Any, np.ndarray]]:
    """Each variable with the value that `_storable` has stored of it, or a WeightFileError."""
    if variables.keys() != arrays.keys():
        differing = sorted(variables.keys() ^ arrays.keys())
        raise WeightFileError(
            f"The state is of another model or optimizer: {', '.join(differing[:3])} differ."
        )
    values = []
    for name, variable in variables.items():
        array = arrays[name]
        # Keras has imported ml_dtypes, by which NumPy knows bfloat16 and its like by name.
        dtype = np.dtype(variable.dtype)
        stored = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
        # Backends count in integers of different sizes.
        same = array.dtype == stored or (array.dtype.kind in "iu" and dtype.kind in "iu")
        if not same or array.shape != tuple(variable.shape):
            raise WeightFileError(
                f"The state is of another model: {name} was stored as {array.dtype} of shape "
                f"{array.shape}, but is {variable.dtype} of shape {tuple(variable.shape)} here."
            )
        values.append((variable, array.view(dtype) if dtype.kind == "V" else array))
    return values


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so often during `fit`, after the step that has just ended.

    To resume an interrupted training, bring a model built and compiled in the same way into the
    state of the latest checkpoint with `restore`, and fit it on
    `Batches(..., first_step=checkpoint.step)`. If a checkpoint cannot be written, because the disk
    is full, a warning is logged; training continues and the last good one stays.

    Args:
        checkpoints: where to.
        every_seconds: the time between two checkpoints, at least 0. Default 60.
        notes: called at each checkpoint for what to save with the state: anything JSON can hold.
            Default: nothing.

    Raises:
        ValueError: for an impossible argument; when `fit` starts, if the optimizer's step count is
            not the position in the data, because gradients are accumulated or the loss is scaled.

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
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saving = SaveCheckpoints(Checkpoints(folder), every_seconds=0)
        ...     history = compiled().fit(batches(0), shuffle=False, verbose=0, callbacks=[saving])
        ...     latest = Checkpoints(folder).latest()  # in another process, say
        >>> resumed = compiled()
        >>> restore(resumed, latest.arrays)
        >>> latest.step, len(batches(latest.step)), int(resumed.optimizer.iterations)
        (12, 0, 12)
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
                    "batch comes next, and an interrupted training could not be resumed."
                )

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Save, if it is time."""
        if time.monotonic() - self._saved < self._every_seconds:
            return
        try:
            self.save()
        except OSError as error:
            _log.warning("No new checkpoint; training continues: %s", error)
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save a checkpoint now; raises an OSError if it cannot be written."""
        model = self.model  # with JAX, asking for it gives it its state back
        self._checkpoints.save(steps_taken(model), state_of(model), self._notes())
