"""Where the backends differ: how weights are synchronised inside a training step.

On a CPU, training steps hand the weights to NumPy, or to code compiled by Numba where that is
installed; both are many times faster than the backends' own sorts. Accelerators sort in the graph,
where the weights are, and so does TensorFlow under XLA (`jit_compile=True`), which can call no host
code. `synchronise_when` makes that choice, and no other place does.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import compiled
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.in_graph import reconnect_all
from laperm_lib.permutation import from_matrix, reconnect, to_matrix

# Compiling takes seconds once on a machine, which networks of fewer weights would not win back.
_WORTH_COMPILING = 100_000


@dataclass(frozen=True)
class PermutedVariable:
    """A variable that is synchronised, and what is needed for it.

    Args:
        variable: the model's variable.
        sorted_initial: its sorted initial values, one weight vector per row: a variable of shape
            (neurons, d).
        neuron_axes: the axes of `variable` that run over neurons.
    """

    variable: Any
    sorted_initial: Any
    neuron_axes: tuple[int, ...]


def outside_graph() -> AbstractContextManager[Any]:
    """A context in which variables have values, also while TensorFlow traces a training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return nullcontext()


def have_values(variables: Sequence[Any]) -> bool:
    """Whether variables hold values: JAX's `fit` takes them away, for good if a step raises."""
    if keras.backend.backend() != "jax":
        return True
    arrays = [variable._value for variable in variables]
    return all(array is not None and not array.is_deleted() for array in arrays)


def synchronise(permuted: Sequence[PermutedVariable]) -> None:
    """Synchronise variables that have values, all or none of them.

    Args:
        permuted: the variables.

    Raises:
        NonFiniteWeightError: if a weight is NaN or infinite; names the variable.
    """
    new_values = _on_host(permuted, *_arrays(permuted, ops.convert_to_numpy))
    for entry, value in zip(permuted, new_values, strict=True):
        entry.variable.assign(value)


def synchronise_when(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    """Synchronise inside a training step if the boolean tensor `due` says so.

    Args:
        due: scalar boolean tensor.
        permuted: the variables.

    Raises:
        NonFiniteWeightError: if a weight is NaN or infinite; names the variable. TensorFlow wraps
            it in its InvalidArgumentError. A step compiled by XLA cannot raise without losing its
            state: it leaves all weights as they are, and `synchronise` raises when `fit` ends, for
            no step makes a NaN or an infinity finite again.
    """
    match keras.backend.backend():
        case "tensorflow":
            _synchronise_when_on_tensorflow(due, permuted)
        case "jax":
            _synchronise_when_on_jax(due, permuted)
        case _:
            _synchronise_when_on_torch(due, permuted)


def _synchronise_when_on_tensorflow(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import tensorflow as tf

    if tf.executing_eagerly():
        if due:
            synchronise(permuted)
        return
    in_graph = tf.config.list_physical_devices("GPU") or is_compiled_by_xla()

    def assign_new_values() -> None:
        arrays = _arrays(permuted, ops.convert_to_tensor)
        if in_graph:
            new_values = _in_graph(permuted, arrays)
        else:
            dtypes = [array.dtype for array in arrays[: len(permuted)]]
            new_values = tf.numpy_function(partial(_on_host, permuted), arrays, dtypes)
        for entry, value in zip(permuted, new_values, strict=True):
            value.set_shape(entry.variable.shape)
            entry.variable.assign(value)

    tf.cond(due, assign_new_values, lambda: None)


def _synchronise_when_on_jax(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import jax

    try:
        from jax.experimental.buffer_callback import buffer_callback
    except ImportError:  # older than JAX 0.6.1, or gone: it is experimental
        buffer_callback = None

    def keep(*arrays: Any) -> list[Any]:
        return list(arrays[: len(permuted)])

    def in_graph(*arrays: Any) -> list[Any]:
        return _in_graph(permuted, arrays)

    def into_buffers(_: Any, new_values: Any, *buffers: Any) -> None:
        arrays = [np.asarray(buffer) for buffer in buffers]
        with suppress(NonFiniteWeightError):
            arrays[: len(permuted)] = _on_host(permuted, *arrays)
        for new, value in zip(new_values, arrays, strict=False):
            np.asarray(new)[...] = value

    def where_fastest(*arrays: Any) -> list[Any]:
        if buffer_callback is None:
            return in_graph(*arrays)
        # JAX's other callbacks copy the arrays with JAX, which can wait for itself on few cores.
        shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in keep(*arrays)]
        on_host = buffer_callback(into_buffers, shapes, vmap_method="sequential")
        return jax.lax.platform_dependent(*arrays, cpu=on_host, default=in_graph)

    # JAX's conditionals are functions: return new values from the branches, assign outside.
    arrays = _arrays(permuted, ops.convert_to_tensor)
    new_values = jax.lax.cond(due, where_fastest, keep, *arrays)
    for entry, value in zip(permuted, new_values, strict=True):
        entry.variable.assign(value)


def _synchronise_when_on_torch(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import torch

    def assign_new_values() -> None:
        if not due:
            return
        if all(entry.variable.value.device.type == "cpu" for entry in permuted):
            synchronise(permuted)
            return
        new_values = _in_graph(permuted, _arrays(permuted, ops.convert_to_tensor))
        for entry, value in zip(permuted, new_values, strict=True):
            entry.variable.assign(value)

    # NumPy and a branch on data can be no part of what torch compiles.
    torch.compiler.disable(assign_new_values)()


def _arrays(permuted: Sequence[PermutedVariable], convert: Callable[[Any], Any]) -> list[Any]:
    """All weights, then all sorted initial values."""
    return [convert(entry.variable) for entry in permuted] + [
        convert(entry.sorted_initial) for entry in permuted
    ]


def _on_host(permuted: Sequence[PermutedVariable], *arrays: np.ndarray) -> list[np.ndarray]:
    """Synchronise on the CPU: `arrays` as `_arrays` gives them."""
    weights, initial = arrays[: len(permuted)], arrays[len(permuted) :]
    worth_compiling = sum(array.size for array in weights) >= _WORTH_COMPILING
    columns = [
        number
        for number, (entry, before) in enumerate(zip(permuted, weights, strict=True))
        if compiled.available and worth_compiling and _are_columns(before, entry.neuron_axes)
    ]
    new_values: dict[int, np.ndarray] = {}
    try:
        synchronised = compiled.reconnect_columns(
            [weights[n].reshape(-1, weights[n].shape[-1]) for n in columns],
            [initial[n] for n in columns],
        )
        for number, new in zip(columns, synchronised, strict=True):
            new_values[number] = new.reshape(weights[number].shape)
        for number, (entry, before) in enumerate(zip(permuted, weights, strict=True)):
            if number not in new_values:
                axes = entry.neuron_axes
                new = reconnect(to_matrix(before, axes), initial[number])
                new_values[number] = np.ascontiguousarray(from_matrix(new, before.shape, axes))
    except NonFiniteWeightError:
        raise NonFiniteWeightError(_non_finite_message(permuted, weights)) from None
    return [new_values[number] for number in range(len(permuted))]


def _are_columns(weights: np.ndarray, neuron_axes: tuple[int, ...]) -> bool:
    """Whether the weight vectors are the columns of a float32 matrix, as in dense and conv."""
    return neuron_axes in ((-1,), (weights.ndim - 1,)) and weights.dtype == np.float32


def _in_graph(permuted: Sequence[PermutedVariable], arrays: Sequence[Any]) -> list[Any]:
    """Synchronise with tensor operations: `arrays` as `_arrays` gives them."""
    axes = [entry.neuron_axes for entry in permuted]
    return reconnect_all(axes, arrays[: len(permuted)], arrays[len(permuted) :])


def _non_finite_message(permuted: Sequence[PermutedVariable], weights: Sequence[np.ndarray]) -> str:
    paths = (
        entry.variable.path
        for entry, array in zip(permuted, weights, strict=True)
        if not np.isfinite(array).all()
    )
    return (
        f"'{next(paths)}' holds a NaN or an infinity, so its weight vectors have no order; "
        "no weight was synchronised. Lower the learning rate or clip the gradients."
    )


def is_compiled_by_xla() -> bool:
    """Whether the TensorFlow function being traced, or one around it, has jit_compile=True."""
    import tensorflow as tf

    graph: Any = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        if context is not None and context.GetControlPivot is not None and context.IsXLAContext():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
