"""The synchronisation of kernels, compiled by Numba, on all cores.

`permutation.reconnect` sorts packed keys with NumPy, on one core and on a transposed copy. Here
each weight vector is sorted by `synchronisation.sorting`, in about linear time; one that is too
crowded for that is left to `permutation.reconnect`. The result is the same, bit for bit.
"""

from collections.abc import Sequence

import numpy as np

from laperm_lib._numba import compiled, in_blocks
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import reconnect
from laperm_lib.synchronisation.sorting import (
    CROWDED,
    DONE,
    ends_of_buckets,
    index_of,
    is_finite,
    key_of,
    sort_packed,
)

_TILE = 16  # Neighbouring neurons share cache lines: one of 64 bytes holds so many.
_LEAST_BLOCK = 50_000  # weights: a thread takes some 20 microseconds to begin a block
_NOT_FINITE = 2  # beside DONE and CROWDED


def reconnect_columns(
    weights: Sequence[np.ndarray], sorted_initial: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """`permutation.reconnect` of the columns of float32 kernels, shape (d, neurons).

    The sorted initial values of each kernel have shape (neurons, d).
    """
    shapes = [matrix.shape for matrix in weights]
    new = [np.empty(shape, np.float32) for shape in shapes]
    outcomes = [np.empty(neurons, np.uint8) for _, neurons in shapes]

    def reconnect_block(kernel: int, first: int, last: int) -> None:
        ends = ends_of_buckets(len(weights[kernel]))
        arrays = (weights[kernel], sorted_initial[kernel], new[kernel], outcomes[kernel])
        _reconnect_tiles(*arrays, ends, first * _TILE, min(last * _TILE, weights[kernel].shape[1]))

    tiles = [(-(-neurons // _TILE), length * _TILE) for length, neurons in shapes]
    in_blocks(reconnect_block, tiles, least=_LEAST_BLOCK)
    if any((outcome == _NOT_FINITE).any() for outcome in outcomes):
        raise NonFiniteWeightError
    for matrix, initial, result, outcome in zip(
        weights, sorted_initial, new, outcomes, strict=True
    ):
        left = np.flatnonzero(outcome == CROWDED)
        if left.size:
            vectors = np.ascontiguousarray(matrix[:, left].T)
            result[:, left] = reconnect(vectors, initial[left]).T
    return new


@compiled()
def _reconnect_tiles(weights, sorted_initial, new, outcome, ends, first, last):  # type: ignore[no-untyped-def]
    """Reconnect the columns from `first` to `last`, a tile of them at a time."""
    length = weights.shape[0]
    # Rows a multiple of 4 KB apart would compete for the same few places in the cache.
    padded = np.empty((_TILE, length + 16), np.float32)
    padded_bits = padded.view(np.int32)
    initial_bits = sorted_initial.view(np.int32)
    numbers = np.empty(length, ends.dtype)
    packed = np.empty(length, np.int64)
    for tile in range(first, last, _TILE):
        width = min(_TILE, last - tile)
        for i in range(length):
            for j in range(width):
                padded[j, i] = weights[i, tile + j]
        for j in range(width):
            vector, bits = padded[j, :length], padded_bits[j, :length]
            initial = sorted_initial[tile + j]
            if is_finite(bits):
                outcome[tile + j] = sort_packed(vector, bits, numbers, ends, packed)
            else:
                outcome[tile + j] = _NOT_FINITE
            if outcome[tile + j] == DONE:
                for rank in range(length):
                    vector[index_of(packed[rank])] = initial[rank]
                _give_out_zeros_by_index(bits, initial_bits[tile + j])
        for i in range(length):
            for j in range(width):
                new[i, tile + j] = padded[j, i]


@compiled()
def _give_out_zeros_by_index(bits, initial_bits):  # type: ignore[no-untyped-def]
    """Where zeros have both signs, give them out by index, as the next synchronisation would."""
    low = 0
    high = len(initial_bits)
    while low < high:  # the first place in the initial values that is not negative
        middle = (low + high) // 2
        if key_of(initial_bits[middle]) < 0:
            low = middle + 1
        else:
            high = middle
    place = low
    negative = False
    while place < len(initial_bits) and key_of(initial_bits[place]) == 0:
        negative |= initial_bits[place] != 0
        place += 1
    if negative:
        for i in range(len(bits)):
            if key_of(bits[i]) == 0:
                bits[i] = initial_bits[low]
                low += 1
