"""The synchronisation of kernels, compiled by Numba, on all cores.

`permutation.reconnect` sorts packed keys with NumPy, on one core and on a transposed copy. Here
each weight vector is sorted in about linear time, because weights are numbers spread over a range:
they are counted into twice as many buckets of equal width, and within a bucket hardly anything is
left to sort. A vector whose values crowd into few buckets (an outlier far from the rest does that)
is left to `permutation.reconnect`, so the time for d weights stays of the order d log d.

Numba is optional (`pip install "laperm-lib[fast]"`); `available` says whether it is there. The
result is that of `permutation.reconnect`, bit for bit.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import reconnect

available = find_spec("numba") is not None
"""Whether Numba is installed."""

_CORES = os.cpu_count() or 1
_TILE = 16  # Neighbouring neurons share a cache line of 16 floats, so they are fetched together.
_BUCKETS_PER_WEIGHT = 2
_CROWDED = 32  # With more weights than this in one bucket, insertion sort is no longer fast.
_DONE, _LEFT, _NOT_FINITE = 0, 1, 2


def _compile(function: Any) -> Any:
    """Compile a function when it is first called, or read what an earlier process compiled."""
    if not available:
        return function
    from numba import njit

    return njit(cache=True, nogil=True, error_model="numpy")(function)


def reconnect_columns(weights: np.ndarray, sorted_initial: np.ndarray) -> np.ndarray:
    """Synchronise weight vectors that are the columns of a matrix, as in dense and conv kernels.

    Args:
        weights: what training produced, float32, shape (d, neurons).
        sorted_initial: the sorted initial values, float32, one weight vector per *row*, shape
            (neurons, d), as `permutation.sort_values` gives them.

    Returns:
        The synchronised weights, shape (d, neurons), as `permutation.reconnect` gives them for the
        transpose.

    Raises:
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> trained = np.array([[0.3], [-2.0], [0.9]], "float32")
        >>> initial = np.array([[-1.0, 0.0, 1.0]], "float32")
        >>> reconnect_columns(trained, initial).ravel().tolist()
        [0.0, -1.0, 1.0]
    """
    threads = _threads()
    neurons = weights.shape[1]
    new = np.empty(weights.shape, np.float32)
    outcome = np.empty(neurons, np.uint8)
    # Whole tiles for each thread. The kernel does not hold Python's lock.
    tiles = -(-neurons // _TILE)
    bounds = [_TILE * (tiles * i // _CORES) for i in range(_CORES)] + [neurons]
    work = [
        threads.submit(_reconnect_tiles, weights, sorted_initial, new, outcome, first, last)
        for first, last in pairwise(bounds)
        if first < last
    ]
    for part in work:
        part.result()
    if (outcome == _NOT_FINITE).any():
        raise NonFiniteWeightError("A weight vector holds a NaN or an infinity: it has no order.")
    left = np.flatnonzero(outcome == _LEFT)
    if left.size:
        vectors = np.ascontiguousarray(weights[:, left].T)
        new[:, left] = reconnect(vectors, sorted_initial[left]).T
    return new


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CORES, thread_name_prefix="laperm-sync")


@_compile
def _reconnect_tiles(weights, sorted_initial, new, outcome, first, last):  # type: ignore[no-untyped-def]
    """Reconnect the columns from `first` to `last`, 16 at a time."""
    length = weights.shape[0]
    vectors = np.empty((_TILE, length), np.float32)
    ends = np.empty(_BUCKETS_PER_WEIGHT * length + 1, np.int32)
    values = np.empty(length, np.float32)
    order = np.empty(length, np.int32)
    for tile in range(first, last, _TILE):
        width = min(_TILE, last - tile)
        for i in range(length):
            for j in range(width):
                vectors[j, i] = weights[i, tile + j]
        for j in range(width):
            vector, initial = vectors[j], sorted_initial[tile + j]
            outcome[tile + j] = _sort_order(vector, ends, values, order)
            if outcome[tile + j] == _DONE:
                for rank in range(length):
                    vector[order[rank]] = initial[rank]
                _give_out_zeros_by_index(vector, initial)
        for i in range(length):
            for j in range(width):
                new[i, tile + j] = vectors[j, i]


@_compile
def _sort_order(vector, ends, values, order):  # type: ignore[no-untyped-def]
    """Stable argsort of a vector into `order`, unless it is crowded or not finite.

    `ends` and `values` are scratch memory for the buckets and the sorted values.
    """
    length = len(vector)
    least = vector[0]
    most = vector[0]
    for i in range(length):
        x = vector[i]
        if not abs(x) < np.inf:
            return _NOT_FINITE
        least = min(least, x)
        most = max(most, x)
    # Rounding keeps order: a larger weight never gets a lower bucket.
    buckets = len(ends) - 1
    spread = np.float64(most) - np.float64(least)
    scale = (buckets - 1) / spread if spread > 0.0 else 0.0
    for bucket in range(buckets + 1):
        ends[bucket] = 0
    for i in range(length):
        ends[1 + np.int32((vector[i] - np.float64(least)) * scale)] += 1
    crowded = False
    for bucket in range(1, buckets + 1):
        crowded |= ends[bucket] > _CROWDED
        ends[bucket] += ends[bucket - 1]
    # Now bucket b begins at ends[b], and once all are placed it ends there.
    for i in range(length):
        x = vector[i]
        number = np.int32((x - np.float64(least)) * scale)
        place = ends[number]
        ends[number] = place + 1
        values[place] = x
        order[place] = i
    if crowded:
        # Equal values, such as the zeros of a sparse network, are in their order already.
        start = 0
        for bucket in range(buckets):
            if ends[bucket] - start > _CROWDED:
                for place in range(start + 1, ends[bucket]):
                    if values[place] != values[start]:
                        return _LEFT
            start = ends[bucket]
    # Insertion sort: hardly any weight is more than a place or two away from its rank.
    for i in range(1, length):
        x = values[i]
        if x < values[i - 1]:
            index = order[i]
            place = i
            while place > 0 and x < values[place - 1]:
                values[place] = values[place - 1]
                order[place] = order[place - 1]
                place -= 1
            values[place] = x
            order[place] = index
    return _DONE


@_compile
def _give_out_zeros_by_index(vector, initial):  # type: ignore[no-untyped-def]
    """Where zeros have both signs, give them out by index, as the next synchronisation would."""
    low = 0
    high = len(initial)
    while low < high:  # the first place in `initial` that is not negative
        middle = (low + high) // 2
        if initial[middle] < 0:
            low = middle + 1
        else:
            high = middle
    place = low
    negative = False
    while place < len(initial) and initial[place] == 0:
        negative |= np.signbit(initial[place])
        place += 1
    if negative:
        for i in range(len(vector)):
            if vector[i] == 0:
                vector[i] = initial[low]
                low += 1
