"""A NumPy function as a part of a training step: how each backend calls one.

Sorting is many times faster in NumPy and Numba than in a backend's graph, and the cycles of SGPerm
cannot be searched for there at all. XLA calls no such function for TensorFlow, and JAX hands its
arrays over in place on the CPU only. Nor do the backends agree on how a step may branch (`either`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Function = Callable[..., Sequence[np.ndarray]]


def jax_can_call() -> bool:
    """Whether JAX has what `call` needs: it is experimental, new in 0.6.1, and may go."""
    try:
        from jax.experimental.buffer_callback import buffer_callback  # noqa: F401
    except ImportError:
        return False
    return True


def call(function: Function, arrays: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """Call a NumPy function on tensors, inside a training step or outside.

    Args:
        function: takes one NumPy array for each of `arrays`, which it must not write to, and
            returns one for each of `like`. What it raises ends the training, on TensorFlow as an
            InvalidArgumentError; on JAX it must not raise, for the step would lose its state.
        arrays: tensors.
        like: tensors of the shapes and dtypes of the results.

    Returns:
        The results as tensors.

    Raises:
        ValueError: if the step is compiled by XLA on TensorFlow.

    Examples:
        >>> one = keras.ops.ones((2,))
        >>> [two] = call(lambda x: [x + x], [one], like=[one])
        >>> keras.ops.convert_to_numpy(two).tolist()
        [2.0, 2.0]
    """
    if keras.backend.backend() == "tensorflow":
        return _on_tensorflow(function, arrays, like)
    if keras.backend.backend() == "jax":
        return _on_jax(function, arrays, like)
    return _on_torch(function, arrays)


def either(
    condition: Any,
    first: Callable[[], None],
    second: Callable[[], None],
    *,
    assigned: Sequence[Any],
) -> None:
    """Take one of two ways through a training step; both assign variables.

    Args:
        condition: scalar boolean tensor.
        first: called if it is true.
        second: called if it is false.
        assigned: all variables that the two read and assign.

    Examples:
        >>> v = keras.Variable(1.0, trainable=False)
        >>> either(v > 0, lambda: v.assign(2.0), lambda: v.assign(3.0), assigned=[v])
        >>> float(v)
        2.0
    """

    def values_after(branch: Callable[[], None]) -> list[Any]:
        with keras.StatelessScope(list(zip(assigned, before, strict=True))) as scope:
            branch()
        return [scope.get_current_value(variable) for variable in assigned]

    if keras.backend.backend() != "jax":
        ops.cond(condition, first, second)
        return
    # JAX's conditionals are functions: return new values from the branches, assign outside.
    before = [ops.convert_to_tensor(variable) for variable in assigned]
    after = ops.cond(condition, lambda: values_after(first), lambda: values_after(second))
    for variable, value in zip(assigned, after, strict=True):
        variable.assign(value)


def _directly(function: Function, arrays: Sequence[Any]) -> list[Any]:
    results = function(*map(ops.convert_to_numpy, arrays))
    return [ops.convert_to_tensor(result) for result in results]


def _on_tensorflow(function: Function, arrays: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    import tensorflow as tf

    if tf.executing_eagerly():
        return _directly(function, arrays)
    if is_compiled_by_xla():
        raise ValueError(
            "XLA cannot call the NumPy function that rearranges weights: compile the model with "
            "jit_compile=False."
        )
    results = tf.numpy_function(function, arrays, [tensor.dtype for tensor in like])
    for result, tensor in zip(results, like, strict=True):
        result.set_shape(tensor.shape)
    return results


def _on_jax(function: Function, arrays: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    import jax
    from jax.experimental.buffer_callback import buffer_callback

    def into_buffers(_: Any, results: Any, *buffers: Any) -> None:
        for result, value in zip(results, function(*map(np.asarray, buffers)), strict=True):
            np.asarray(result)[...] = value

    # JAX's other callbacks copy the arrays with JAX, which can wait for itself on few cores.
    shapes = [jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in like]
    return buffer_callback(into_buffers, shapes, vmap_method="sequential")(*arrays)


def _on_torch(function: Function, arrays: Sequence[Any]) -> list[Any]:
    import torch

    return torch.compiler.disable(_directly)(function, arrays)  # NumPy is no part of a program


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
