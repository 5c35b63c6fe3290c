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

_FORMAT = 2
_HEADER, _HEADER_1 = "checkpoint.json", "notes.json"  # the latter in format 1
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

    Args:
        folder: where they are.
        about: what the training is, by name, as JSON can hold it: its settings, its seed and a hash
            of its data, say. It is saved with each checkpoint, and one saved with another value of
            these is refused. Default: nothing; then none is.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoints(folder).save(20, {"kernel": np.ones(3)}, notes={"accuracy": 0.5})
        ...     latest = Checkpoints(folder).latest()
        >>> latest.step, latest.arrays["kernel"].tolist(), latest.notes
        (20, [1.0, 1.0, 1.0], {'accuracy': 0.5})
    """

    def __init__(self, folder: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
        self.folder, self.about = Path(folder), dict(about or {})

    def path(self, step: int) -> Path:
        """The file of the checkpoint after so many steps."""
        return self.folder / f"checkpoint-{step:09d}.npz"

    def save(self, step: int, arrays: Mapping[str, np.ndarray], notes: Any = None) -> None:
        """Write a checkpoint, then delete all but it and the one before it.

        Later ones go too: they could not be read when this training was resumed. An OSError if it
        cannot be written, as on a full disk; the earlier ones stay. A ValueError for an array of
        Python objects, a TypeError for notes that JSON cannot hold.
        """
        # An archive that has lost an entry is not noticed by its checksums, hence the names.
        header = {"format": _FORMAT, "step": int(step), "names": sorted(arrays)}
        text = json.dumps(header | {"about": self.about, "notes": notes}).encode()
        with files.replaced(self.path(step)) as file:
            np.savez(file, allow_pickle=False, **{_HEADER: np.frombuffer(text, np.uint8)}, **arrays)
        self._delete_all_but([each for each in self.steps() if each <= step][-_KEPT:])

    def latest(self) -> Checkpoint | None:
        """The latest checkpoint that can be read, or None; a damaged one is logged and skipped.

        A WeightFileError for one that is not damaged but does not belong here: of another training,
        of another format, or renamed.
        """
        for step in reversed(self.steps()):
            try:
                header, arrays = _read(self.path(step))
            except WeightFileError as error:
                _log.warning("%s The checkpoint before it is used, if there is one.", error)
                continue
            self._check(step, header)
            return Checkpoint(step, arrays, header["notes"])
        return None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged or not, the latest last."""
        names = self.folder.glob(f"checkpoint-{'[0-9]' * 9}.npz")
        return sorted(int(path.stem.removeprefix("checkpoint-")) for path in names)

    def clear(self) -> None:
        """Delete all of them: the training is finished."""
        self._delete_all_but([])

    def _check(self, step: int, header: dict[str, Any]) -> None:
        """Refuse a checkpoint from which this training would not resume as what it is."""
        about = json.loads(json.dumps(self.about))  # tuples are lists there
        if header["format"] != _FORMAT:
            why = f"is of format {header['format']}, not {_FORMAT}: use the version that wrote it"
        elif header["step"] != step:
            why = f"has been renamed: it is of step {header['step']}; name it so"
        elif differing := [name for name in about if header["about"].get(name) != about[name]]:
            why = f"is from a training that differs in {', '.join(differing)}: resume that one"
        else:
            return
        raise WeightFileError(f"{self.path(step)} {why}, or delete it.")

    def _delete_all_but(self, kept: Sequence[int]) -> None:
        """Delete the others, and what killed processes have left."""
        files.delete_parts(self.folder, "checkpoint-*")
        for step in set(self.steps()).difference(kept):
            self.path(step).unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header of a file, whatever its format, and the arrays."""
    arrays = files.read_arrays(path)
    if _HEADER_1 in arrays and _HEADER not in arrays:
        return {"format": 1}, arrays
    try:
        header = json.loads(arrays.pop(_HEADER).tobytes())
        is_whole = header["format"] != _FORMAT or (
            header["names"] == sorted(arrays) and header.keys() >= {"step", "about", "notes"}
        )
    except (KeyError, ValueError, TypeError, RecursionError):
        raise WeightFileError(f"{path} is not a checkpoint.") from None
    if not is_whole:
        raise WeightFileError(f"{path} is damaged: it does not hold all that was written.")
    return header, arrays


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
