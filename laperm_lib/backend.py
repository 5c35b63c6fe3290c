"""Where the backends differ: how weights are synchronised inside a training step.

On a CPU, TensorFlow's graphs and torch hand the weights to NumPy, or to code compiled by Numba
where that is installed; both are many times faster than the backends' own sorts. XLA (TensorFlow's
`jit_compile`, all of JAX) and accelerators sort in the graph, where the weights are.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import compiled
from laperm_lib.errors import NonFiniteWeightError
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
    if keras.backend.backend() == "jax":
        # JAX's conditionals are functions: return new values from the branches, assign outside.
        weights = [ops.convert_to_tensor(entry.variable) for entry in permuted]
        new_values = ops.cond(due, lambda: _in_graph(permuted), lambda: weights)
        for entry, value in zip(permuted, new_values, strict=True):
            entry.variable.assign(value)
        return

    def assign_new_values() -> None:
        for entry, value in zip(permuted, _new_values(permuted), strict=True):
            entry.variable.assign(value)

    ops.cond(due, assign_new_values, lambda: None)


def _new_values(permuted: Sequence[PermutedVariable]) -> Sequence[Any]:
    """The synchronised values, computed where it is fastest."""
    if keras.backend.backend() == "torch":
        on_cpu = all(entry.variable.value.device.type == "cpu" for entry in permuted)
        if on_cpu:
            return _on_host(permuted, *_arrays(permuted, ops.convert_to_numpy))
        return _in_graph(permuted)
    import tensorflow as tf

    if tf.executing_eagerly():
        return _on_host(permuted, *_arrays(permuted, ops.convert_to_numpy))
    if tf.config.list_physical_devices("GPU") or _is_compiled_by_xla():
        return _in_graph(permuted)
    tensors = _arrays(permuted, ops.convert_to_tensor)
    values = tf.numpy_function(
        lambda *arrays: _on_host(permuted, *arrays),
        tensors,
        [tensor.dtype for tensor in tensors[: len(permuted)]],
    )
    for value, entry in zip(values, permuted, strict=True):
        value.set_shape(entry.variable.shape)
    return values


def _arrays(permuted: Sequence[PermutedVariable], convert: Callable[[Any], Any]) -> list[Any]:
    """All weights, then all sorted initial values."""
    return [convert(entry.variable) for entry in permuted] + [
        convert(entry.sorted_initial) for entry in permuted
    ]


def _on_host(permuted: Sequence[PermutedVariable], *arrays: np.ndarray) -> list[np.ndarray]:
    """Synchronise on the CPU: `arrays` as `_arrays` gives them."""
    weights, initial = arrays[: len(permuted)], arrays[len(permuted) :]
    compile_sync = compiled.available and sum(array.size for array in weights) >= _WORTH_COMPILING
    new_values = []
    for entry, before, values in zip(permuted, weights, initial, strict=True):
        axes = entry.neuron_axes
        columns = axes in ((-1,), (before.ndim - 1,)) and before.dtype == np.float32
        try:
            if compile_sync and columns:
                matrix = before.reshape(-1, before.shape[-1])
                new = compiled.reconnect_columns(matrix, values).reshape(before.shape)
            else:
                new = from_matrix(reconnect(to_matrix(before, axes), values), before.shape, axes)
        except NonFiniteWeightError:
            raise NonFiniteWeightError(_non_finite_message(entry)) from None
        new_values.append(np.ascontiguousarray(new))
    return new_values


def _non_finite_message(entry: PermutedVariable) -> str:
    return (
        f"'{entry.variable.path}' holds a NaN or an infinity, so its weight vectors have no order; "
        "no weight was synchronised. Lower the learning rate or clip the gradients."
    )


def _in_graph(permuted: Sequence[PermutedVariable]) -> list[Any]:
    """Synchronise with the backend's own sort; if a weight is not finite, keep all of them."""
    weights = [ops.convert_to_tensor(entry.variable) for entry in permuted]
    finite = [ops.all(ops.isfinite(weight)) for weight in weights]
    all_finite = ops.all(ops.stack(finite))
    new_values = []
    for entry, weight in zip(permuted, weights, strict=True):
        initial = ops.convert_to_tensor(entry.sorted_initial)
        matrix = _reconnect_in_graph(to_matrix(weight, entry.neuron_axes, ops), initial)
        new = from_matrix(matrix, tuple(weight.shape), entry.neuron_axes, ops)
        new_values.append(ops.where(all_finite, new, weight))
    return new_values


def _reconnect_in_graph(weights: Any, sorted_initial: Any) -> Any:
    """`permutation.reconnect` on tensors of shape (neurons, d)."""
    new = _scatter(_stable_argsort(weights), sorted_initial)
    # Zeros of both signs tie: give them out by index, as the next synchronisation would.
    signed_zeros = ops.any(ops.logical_and(sorted_initial == 0, ops.signbit(sorted_initial)))
    return ops.cond(
        signed_zeros, lambda: _scatter(_stable_argsort(new), sorted_initial), lambda: new
    )


def _stable_argsort(matrix: Any) -> Any:
    """Stable argsort of every row; -0 is made +0, which XLA would otherwise put behind it."""
    matrix = ops.where(matrix == 0, ops.zeros_like(matrix), matrix)
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            return tf.argsort(matrix, axis=-1, stable=True)
        case "jax":
            import jax.numpy as jnp

            return jnp.argsort(matrix, axis=-1, stable=True)
        case _:
            import torch

            return torch.argsort(matrix, dim=-1, stable=True)


def _scatter(order: Any, values: Any) -> Any:
    """new[order] = values in every row; keras.ops.scatter would add to zeros, which loses -0."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            rows = tf.broadcast_to(tf.range(tf.shape(order)[0])[:, None], tf.shape(order))
            return tf.tensor_scatter_nd_update(values, tf.stack([rows, order], -1), values)
        case "jax":
            import jax.numpy as jnp

            return jnp.put_along_axis(values, order, values, axis=-1, inplace=False)
        case _:
            import torch

            return torch.empty_like(values).scatter_(-1, order, values)


def _is_compiled_by_xla() -> bool:
    """Whether the TensorFlow function being traced, or one around it, has jit_compile=True."""
    import tensorflow as tf

    graph: Any = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        if context is not None and context.GetControlPivot is not None and context.IsXLAContext():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
