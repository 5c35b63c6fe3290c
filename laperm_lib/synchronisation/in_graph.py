"""The synchronisation as tensor operations, where the weights are: on accelerators and under XLA.

`permutation.reconnect` written with the backend's own stable sort, so that it can be part of a
compiled program (`tf.function`, `jax.jit`, `jax.vmap`). The result is the same, bit for bit.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from laperm_lib.permutation import from_matrix, to_matrix


def reconnect_all(
    neuron_axes: Sequence[tuple[int, ...]], weights: Sequence[Any], sorted_initial: Sequence[Any]
) -> list[Any]:
    """Synchronise a list of variables' values, all or none of them; a pure function of tensors.

    Args:
        neuron_axes: of each variable, the axes that run over neurons.
        weights: what training produced, one tensor per variable, of any shape and float dtype.
        sorted_initial: the sorted initial values of each, as `permutation.sort_values` gives them,
            shape (neurons, d), same dtype.

    Returns:
        The new values, of the shapes of `weights`. If any weight is a NaN or an infinity, which
        have no rank, these are `weights` unchanged: a compiled program cannot raise.

    Examples:
        >>> kernel = keras.ops.convert_to_tensor([[0.3], [-2.0], [0.9]])
        >>> initial = keras.ops.convert_to_tensor([[-1.0, 0.0, 1.0]])
        >>> [new] = reconnect_all([(-1,)], [kernel], [initial])
        >>> keras.ops.convert_to_numpy(new).ravel().tolist()
        [0.0, -1.0, 1.0]
    """
    all_finite = ops.all(ops.stack([ops.all(ops.isfinite(weight)) for weight in weights]))
    new_values = []
    for axes, weight, initial in zip(neuron_axes, weights, sorted_initial, strict=True):
        matrix = _reconnect(to_matrix(weight, axes, ops), initial)
        new = from_matrix(matrix, tuple(weight.shape), axes, ops)
        new_values.append(ops.where(all_finite, new, weight))
    return new_values


def _reconnect(weights: Any, sorted_initial: Any) -> Any:
    """`permutation.reconnect` on tensors of shape (neurons, d)."""
    new = _scatter(_stable_argsort(_keys(weights)), sorted_initial)
    # Zeros of both signs tie: give them out by index, as the next synchronisation would. The n-th
    # zero of a row takes the n-th zero of the initial values, which follow the negative ones.
    is_zero = _keys(new) == 0
    negative = ops.sum(ops.cast(_keys(sorted_initial) < 0, "int32"), axis=-1, keepdims=True)
    place = negative + ops.cumsum(ops.cast(is_zero, "int32"), axis=-1) - 1
    place = ops.clip(place, 0, weights.shape[-1] - 1)  # some are read only to be thrown away
    return ops.where(is_zero, ops.take_along_axis(sorted_initial, place, axis=-1), new)


def _keys(floats: Any) -> Any:
    """Integers in the order of finite floats; -0 and +0 are both 0.

    Backends compare tiny floats as if they were 0, and XLA sorts -0 before +0; integers are safe.
    """
    bits = int(keras.backend.standardize_dtype(floats.dtype)[-2:])  # float32, bfloat16, ...
    integers = ops.view(floats, f"int{bits}")
    # Floats are sign and magnitude: flip the magnitude of the negative ones. -0 becomes -1.
    flip = ops.bitwise_and(ops.right_shift(integers, bits - 1), 2 ** (bits - 1) - 1)
    keys = ops.bitwise_xor(integers, flip)
    return ops.where(keys == -1, ops.zeros_like(keys), keys)


def _stable_argsort(keys: Any) -> Any:
    """Stable argsort of every row; `keras.ops.argsort` does not promise to be stable."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.argsort(keys, axis=-1, stable=True)
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.argsort(keys, axis=-1, stable=True)
    import torch

    return torch.argsort(keys, dim=-1, stable=True)


def _scatter(order: Any, values: Any) -> Any:
    """new[order] = values in every row; keras.ops.scatter would add to zeros, which loses -0."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        rows = tf.broadcast_to(tf.range(tf.shape(order)[0])[:, None], tf.shape(order))
        return tf.tensor_scatter_nd_update(values, tf.stack([rows, order], -1), values)
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.put_along_axis(values, order, values, axis=-1, inplace=False)
    import torch

    return torch.empty_like(values).scatter_(-1, order, values)
