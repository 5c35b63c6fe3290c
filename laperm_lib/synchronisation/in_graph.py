"""The synchronisation as tensor operations, where the weights are: on accelerators and under XLA.

`permutation.reconnect` written with the backend's own stable sort, for compiled programs. The
result is the same, bit for bit.
"""

from typing import Any

import keras
from keras import ops

from laperm_lib import _backend as backend


def sorted_rows(matrix: Any) -> Any:
    """`permutation.sort_values` on tensors of shape (neurons, d)."""
    return ops.take_along_axis(matrix, backend.stable_argsort(_keys(matrix)), axis=-1)


def reconnect(weights: Any, sorted_initial: Any) -> Any:
    """`permutation.reconnect` on tensors of shape (neurons, d)."""
    new = backend.scattered(backend.stable_argsort(_keys(weights)), sorted_initial)
    # Zeros of both signs tie: give them out by index, as the next synchronisation would. The n-th
    # zero of a row takes the n-th zero of the initial values, which follow the negative ones.
    is_zero = _keys(new) == 0
    negative = ops.sum(ops.cast(_keys(sorted_initial) < 0, "int32"), axis=-1, keepdims=True)
    place = negative + ops.cumsum(ops.cast(is_zero, "int32"), axis=-1) - 1
    place = ops.clip(place, 0, weights.shape[-1] - 1)  # some are read only to be thrown away
    return ops.where(is_zero, ops.take_along_axis(sorted_initial, place, axis=-1), new)


def _keys(floats: Any) -> Any:
    """Integers in the order of finite floats; -0 and +0 are both 0.

    Backends compare tiny floats as if they were 0, and XLA sorts -0 before +0.
    """
    bits = int(keras.backend.standardize_dtype(floats.dtype)[-2:])  # float32, bfloat16, ...
    integers = ops.view(floats, f"int{bits}")
    # Floats are sign and magnitude: flip the magnitude of the negative ones. -0 becomes -1.
    flip = ops.bitwise_and(ops.right_shift(integers, bits - 1), 2 ** (bits - 1) - 1)
    keys = ops.bitwise_xor(integers, flip)
    return ops.where(keys == -1, ops.zeros_like(keys), keys)
