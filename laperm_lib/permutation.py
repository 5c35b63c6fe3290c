r"""Weight vectors as matrices, their ranks, and the reconnection of values by rank.

This is the mathematics of the paper's section 3, on NumPy arrays. A variable is seen as a matrix
with one weight vector per row. Synchronising a weight vector
:math:`w` with initial values :math:`w_0` is

.. math:: w_{\mathrm{new}}[\operatorname{argsort}(w)] = \operatorname{sort}(w_0),

ties by index. :math:`-0` and :math:`+0` are equal numbers, hence a tie like any other.

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 3.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from laperm_lib.errors import NonFiniteWeightError


def to_matrix(array: Any, neuron_axes: tuple[int, ...], xp: ModuleType = np) -> Any:
    """Arrange an array as a matrix with one weight vector per row.

    Args:
        array: the values of a variable, of any shape.
        neuron_axes: the axes that run over neurons, negative from the end; the others, in C order,
            form one neuron's weight vector. `()` makes one vector of everything.
        xp: the module that has `transpose` and `reshape`: `numpy` (the default) or `keras.ops`.

    Returns:
        A matrix of shape (neurons, d).

    Raises:
        ValueError: if an axis is out of range or named twice, or the array is empty.

    Examples:
        >>> kernel = np.arange(6).reshape(3, 2)  # (in, out)
        >>> to_matrix(kernel, (-1,)).tolist()
        [[0, 2, 4], [1, 3, 5]]
    """
    order, neurons = _axis_order(tuple(array.shape), neuron_axes)
    return xp.reshape(xp.transpose(array, order), (neurons, math.prod(array.shape) // neurons))


def from_matrix(
    matrix: Any, shape: tuple[int, ...], neuron_axes: tuple[int, ...], xp: ModuleType = np
) -> Any:
    """Undo `to_matrix`: put a matrix, shape (neurons, d), back into the shape of a variable.

    `neuron_axes`, `xp` and the errors are those of `to_matrix`.

    Examples:
        >>> kernel = np.arange(6).reshape(3, 2)
        >>> bool((from_matrix(to_matrix(kernel, (1,)), (3, 2), (1,)) == kernel).all())
        True
    """
    order, _ = _axis_order(shape, neuron_axes)
    inverse = tuple(order.index(axis) for axis in range(len(shape)))
    return xp.transpose(xp.reshape(matrix, tuple(shape[axis] for axis in order)), inverse)


def matrix_shape(shape: tuple[int, ...], neuron_axes: tuple[int, ...]) -> tuple[int, int]:
    """The shape (neurons, d) of `to_matrix` for an array of a shape."""
    _, neurons = _axis_order(shape, neuron_axes)
    return neurons, math.prod(shape) // neurons


def _axis_order(shape: tuple[int, ...], neuron_axes: tuple[int, ...]) -> tuple[list[int], int]:
    """The axes with the neurons' first, and the number of neurons."""
    rank = len(shape)
    if any(not -rank <= axis < rank for axis in neuron_axes):
        raise ValueError(f"Neuron axes {neuron_axes} do not fit an array of shape {shape}.")
    neurons = [axis % rank for axis in neuron_axes]
    if len(set(neurons)) != len(neurons):
        raise ValueError(f"Neuron axes {neuron_axes} name one axis of shape {shape} twice.")
    if 0 in shape:
        raise ValueError(f"An array of shape {shape} holds no weights.")
    order = neurons + [axis for axis in range(rank) if axis not in neurons]
    return order, math.prod(shape[axis] for axis in neurons)


def sort_order(matrix: np.ndarray) -> np.ndarray:
    """Stable argsort of every row: ties by index, -0 and +0 tied.

    Args:
        matrix: finite floats, shape (..., d); others raise a NonFiniteWeightError.

    Returns:
        Indices that sort each row, shape (..., d), dtype intp.

    Examples:
        >>> sort_order(np.array([[0.5, -1.0, 0.0, -0.0, 0.5]], "float32")).tolist()
        [[1, 2, 3, 0, 4]]
    """
    if not np.isfinite(matrix).all():
        raise NonFiniteWeightError
    # As integers in the same order, for in TensorFlow's threads subnormal floats are equal to 0.
    if matrix.dtype.itemsize > 4:
        return np.argsort(_ordered_bits(matrix), axis=-1, kind="stable")
    # Sorting them packed with their index is several times faster than a stable argsort.
    keys = _ordered_bits(matrix).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(matrix.shape[-1], dtype=np.uint64)
    keys.sort(axis=-1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the given floats; equal floats have equal bits."""
    is_long = values.dtype.itemsize > 4
    signed, unsigned = (np.int64, np.uint64) if is_long else (np.int32, np.uint32)
    bits: np.ndarray = values.astype(np.float64 if is_long else np.float32).view(signed)
    sign = np.iinfo(signed).min
    bits[bits == sign] = 0  # -0
    # IEEE floats are sign and magnitude: flip all bits of the negative ones, the sign of the rest.
    flip = (bits >> (8 * bits.itemsize - 1)) | sign
    return (bits ^ flip).view(unsigned)


def sort_values(matrix: np.ndarray) -> np.ndarray:
    """Every row in the order of `sort_order`, bit for bit: sort(w0) of the synchronisation.

    The result is C-contiguous.

    Examples:
        >>> sort_values(np.array([3.0, 1.0, 2.0])).tolist()
        [1.0, 2.0, 3.0]
    """
    return np.ascontiguousarray(np.take_along_axis(matrix, sort_order(matrix), axis=-1))


def reconnect(weights: np.ndarray, sorted_initial: np.ndarray) -> np.ndarray:
    """Put the initial values back in the rank order of the weights (the paper's synchronisation).

    Args:
        weights: what training produced, one weight vector per row, shape (..., d).
        sorted_initial: the initial values, sorted by `sort_values`, same shape.

    Returns:
        The synchronised weights. Every row is, bit for bit, a permutation of the same row of
        `sorted_initial`, ranked as `weights` is. Reconnecting the result changes no bit.

    Raises:
        ValueError: if the shapes differ.
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> trained = np.array([0.3, -2.0, 0.9])
        >>> reconnect(trained, np.array([-1.0, 0.0, 1.0])).tolist()
        [0.0, -1.0, 1.0]
    """
    if weights.shape != sorted_initial.shape:
        raise ValueError(
            f"Weights of shape {weights.shape} cannot take initial values of shape "
            f"{sorted_initial.shape}."
        )
    new = np.empty_like(sorted_initial)
    np.put_along_axis(new, sort_order(weights), sorted_initial, axis=-1)
    # Zeros of both signs tie, so the next reconnection would give them out by index. Do it now:
    # every row has as many zeros as before, and a boolean mask goes through them row by row.
    zeros = _is_zero(new)
    if zeros.any():
        new[zeros] = sorted_initial[_is_zero(sorted_initial)]
    return new


def _is_zero(values: np.ndarray) -> np.ndarray:
    """Where -0 and +0 are; by bits, as subnormal numbers are equal to 0 in TensorFlow's threads."""
    return values.view(f"u{values.dtype.itemsize}") << 1 == 0


def reconnect_reference(weights: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """`reconnect` of one weight vector, shape (d,), written for reading; `initial` in any order.

    Examples:
        >>> reconnect_reference(np.array([0.3, -2.0, 0.9]), np.array([1.0, 0.0, -1.0])).tolist()
        [0.0, -1.0, 1.0]
    """
    places = sorted(range(len(weights)), key=lambda i: weights[i])  # stable: ties by index
    values = sorted(initial)
    new = np.empty_like(initial)
    for place, value in zip(places, values, strict=True):
        new[place] = value
    zero_places = [i for i in range(len(new)) if new[i] == 0]
    for place, value in zip(zero_places, [v for v in values if v == 0], strict=True):
        new[place] = value
    return new


def is_permutation(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether every row of `after` holds exactly the values of the same row of `before`.

    Bit for bit, so -0 is not +0 and a NaN equals itself. Shapes are (..., d), and dtypes have up to
    64 bits; arrays of different shapes or dtypes are never permutations.

    Examples:
        >>> start = np.array([1.0, 2.0])
        >>> is_permutation(start, np.array([2.0, 1.0])), is_permutation(start, np.array([2.0, 2.0]))
        (True, False)
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    bits = np.dtype(f"u{before.dtype.itemsize}")
    first, second = (np.ascontiguousarray(array).view(bits) for array in (before, after))
    return bool(np.array_equal(np.sort(first, axis=-1), np.sort(second, axis=-1)))


def are_permutations(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> bool:
    """Whether `is_permutation` holds for each pair, of which there is at least one."""
    return bool(before) and len(before) == len(after) and all(map(is_permutation, before, after))
