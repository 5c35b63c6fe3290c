"""The state of a training: how many steps it has taken, and all that the next one depends on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from laperm_lib.errors import WeightFileError

_MODEL = "model/"


def state_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Everything that the next training step of a compiled model depends on, but for its data.

    Args:
        model: built and compiled, and its optimizer built, as after a training step.

    Returns:
        Arrays by name. They hold weights, states of random generators, and all of the optimizer's
        variables. Those of a type that NumPy does not have itself, as bfloat16, are the unsigned
        integers of the same bits.

    Raises:
        ValueError: if the model is not compiled.
    """
    return {
        name: _storable(np.array(keras.ops.convert_to_numpy(variable)))
        for name, variable in (_of_model(model) | _of_optimizer(model)).items()
    }


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Bring a model and its optimizer into a state that `state_of` gave.

    Args:
        model: built and compiled as the one that the state is from, with the same optimizer. The
            optimizer is built here if it is not yet.
        arrays: the state, as in the `arrays` of a `laperm_lib.checkpoints.Checkpoint`.

    Raises:
        ValueError: if the model is not compiled, or there are no arrays by name.
        WeightFileError: if the state is of another model or optimizer; no value is changed then.
    """
    if not isinstance(arrays, Mapping):
        raise ValueError(f"A state is arrays by name, as checkpoint.arrays, got {type(arrays)}.")
    variables = _of_model(model)
    in_model = {name: array for name, array in arrays.items() if name.startswith(_MODEL)}
    values = _values(variables, in_model)
    # Not earlier: LaPerm takes the weights that it is built with for the initial ones.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables |= _of_optimizer(model)
    values |= _values(_of_optimizer(model), {n: arrays[n] for n in arrays.keys() - in_model.keys()})
    for name, variable in variables.items():
        variable.assign(values[name])


def steps_taken(model: keras.Model) -> int:
    """How many steps a model has been trained for, as its optimizer counts them.

    Not the `batch` that Keras gives callbacks: it counts beyond the end in a last, shorter
    execution of `steps_per_execution`.

    Args:
        model: compiled. In a callback its `self.model`: JAX's `fit` keeps the state of a model
            apart, and asking for that one puts it back.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), batch_size=2, verbose=0)
        >>> steps_taken(model)
        4
    """
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def nested(optimizer: Any) -> Iterator[Any]:
    """An optimizer, that inside it, and so on."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _of_model(model: keras.Model) -> dict[str, Any]:
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"'{model.name}' is not compiled, so there is no state of an optimizer.")
    return _numbered(_MODEL, model.variables)


def _of_optimizer(model: keras.Model) -> dict[str, Any]:
    # With the classes: several of Keras's optimizers have variables of the same shapes.
    kinds = [type(optimizer).__name__ for optimizer in nested(model.optimizer)]
    return _numbered("/".join(["optimizer", *kinds, ""]), model.optimizer.variables)


def _numbered(prefix: str, variables: Sequence[Any]) -> dict[str, Any]:
    """Variables by a name that is theirs alone: numbers, for layers may share a name."""
    return {f"{prefix}{number:04d}": variable for number, variable in enumerate(variables)}


def _values(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The value for each variable, or a WeightFileError."""
    if variables.keys() != arrays.keys():
        differing = sorted(variables.keys() ^ arrays.keys())
        raise WeightFileError(
            f"The state is of another model or optimizer: {', '.join(differing[:3])} differ."
        )
    return {name: _restored(arrays[name], name, variables[name]) for name in variables}


def _storable(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _restored(array: np.ndarray, name: str, variable: Any) -> np.ndarray:
    """The value that `_storable` has stored of a variable."""
    # Keras has imported ml_dtypes, by which NumPy knows bfloat16 and its like by name.
    dtype = np.dtype(variable.dtype)
    stored = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
    # Backends count in integers of different sizes.
    if array.dtype != stored and not (array.dtype.kind in "iu" and dtype.kind in "iu"):
        raise WeightFileError(
            f"The state is of another model: {name} was stored as {array.dtype}, "
            f"but is {variable.dtype} here."
        )
    if array.shape != tuple(variable.shape):
        raise WeightFileError(
            f"The state is of another model: {name} has shape {array.shape}, "
            f"not {tuple(variable.shape)}."
        )
    return array.view(dtype) if dtype.kind == "V" else array
