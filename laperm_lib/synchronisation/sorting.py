"""Sorting weight vectors in about linear time, compiled by Numba.

Weights are counted into twice as many buckets of equal width; within a bucket hardly anything is
left to sort. Where they crowd into few buckets, as with an outlier far from the rest, NumPy sorts
them, in time of order d log d. The results are those of `laperm_lib.permutation.sort_order`.
"""

from collections.abc import Callable

import numpy as np

from laperm_lib import permutation
from laperm_lib._numba import compiled
from laperm_lib.errors import NonFiniteWeightError

_BUCKETS_PER_WEIGHT = 2
DONE, CROWDED = 0, 1
"""What `sort_packed` says."""

MOST_IN_A_BUCKET = 32  # With more than this in one, insertion sort is no longer fast.


def sort_order(matrix: np.ndarray) -> np.ndarray:
    """`permutation.sort_order` of every row of a matrix of floats, dtype int32."""
    return _sort_order(_sort_rows, matrix, lambda rows: rows)


def order_of_size(matrix: np.ndarray) -> np.ndarray:
    """`sort_order(-|x|)` of gradients, whose sizes differ greatly: buckets are of logarithms."""
    return _sort_order(_sort_rows_by_size, matrix, lambda rows: -np.abs(rows))


def _sort_order(
    sort: Callable[..., None], matrix: np.ndarray, key: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The stable argsort of the rows of `key(matrix)`: a compiled one, or NumPy's where it must."""
    if matrix.dtype != np.float32:
        return permutation.sort_order(key(matrix)).astype(np.int32)
    if not np.isfinite(matrix).all():
        raise NonFiniteWeightError
    order = np.empty(matrix.shape, np.int32)
    outcome = np.empty(len(matrix), np.uint8)
    sort(np.ascontiguousarray(matrix), ends_of_buckets(matrix.shape[1]), order, outcome)
    left = np.flatnonzero(outcome == CROWDED)
    if left.size:
        order[left] = permutation.sort_order(key(matrix[left]))
    return order


def ends_of_buckets(length: int) -> np.ndarray:
    """Scratch memory of `sort_packed` for weight vectors of a length."""
    return new_ends(_BUCKETS_PER_WEIGHT * length)


def new_ends(buckets: int) -> np.ndarray:
    """Scratch memory for the ends of so many buckets, and for one number more."""
    if buckets > np.iinfo(np.int32).max:
        raise ValueError("A weight vector of more than 2**30 weights cannot be sorted here.")
    # The smaller the integers, the more of them stay in the fastest cache.
    small = buckets <= np.iinfo(np.uint16).max
    return np.empty(buckets + 1, np.uint16 if small else np.int32)


@compiled(inline="always")
def begin_buckets(ends):  # type: ignore[no-untyped-def]
    """Add up counts, that of bucket b at b + 1, to where it begins, at b; gives the largest."""
    fullest = np.int64(0)
    end = np.int64(0)
    for bucket in range(1, len(ends)):
        count = np.int64(ends[bucket])
        fullest = max(fullest, count)
        end += count
        ends[bucket] = end
    return fullest


@compiled(inline="always")
def finish(keys):  # type: ignore[no-untyped-def]
    """Sort integers of which hardly any is more than a place or two away from its rank."""
    # Neighbours in order first, without a branch: most that are not in their place are side by
    # side, and a branch for each would be guessed wrong.
    for start in range(2):
        for i in range(start, len(keys) - 1, 2):
            left, right = keys[i], keys[i + 1]
            keys[i] = min(left, right)
            keys[i + 1] = max(left, right)
    for i in range(1, len(keys)):
        key = keys[i]
        if key < keys[i - 1]:
            place = i
            while place > 0 and key < keys[place - 1]:
                keys[place] = keys[place - 1]
                place -= 1
            keys[place] = key


@compiled()
def _sort_rows(matrix, ends, order, outcome):  # type: ignore[no-untyped-def]
    """`sort_packed` each row."""
    length = matrix.shape[1]
    bits = matrix.view(np.int32)
    numbers = np.empty(length, ends.dtype)
    packed = np.empty(length, np.int64)
    for row in range(len(matrix)):
        outcome[row] = sort_packed(matrix[row], bits[row], numbers, ends, packed)
        for rank in range(length):
            order[row, rank] = index_of(packed[rank])


@compiled()
def _sort_rows_by_size(matrix, ends, order, outcome):  # type: ignore[no-untyped-def]
    """Sort each row by size. The bits of a positive float, as an integer, are about a logarithm."""
    length = matrix.shape[1]
    bits = matrix.view(np.int32)
    magnitude = np.empty(length, np.float32)  # minus about the logarithm: decides on the bucket
    negative = np.empty(length, np.int32)  # the bits of minus the absolute value
    numbers = np.empty(length, ends.dtype)
    packed = np.empty(length, np.int64)
    for row in range(len(matrix)):
        least = np.int64(0x7FFFFFFF)
        most = np.int64(0)
        for i in range(length):
            size = np.int64(bits[row, i] & np.int32(0x7FFFFFFF))
            most = max(most, size)
            if size > 0:
                least = min(least, size)
        # Zeros, often many, have a bucket of their own, not one far away from all others.
        zero = np.float32(least - 1024 - 2 * (most - least) // length)
        for i in range(length):
            size = bits[row, i] & np.int32(0x7FFFFFFF)
            magnitude[i] = -(np.float32(size) if size > 0 else zero)
            negative[i] = size | np.int32(-0x80000000)
        outcome[row] = sort_packed(magnitude, negative, numbers, ends, packed)
        for rank in range(length):
            order[row, rank] = index_of(packed[rank])


@compiled()
def is_finite(bits):  # type: ignore[no-untyped-def]
    """Whether floats with these bits are all finite: NaN and infinity have all exponent bits."""
    exponent = np.int32(0x7F800000)
    found = np.int32(0)
    for i in range(len(bits)):  # without a branch, so that many are looked at at once
        found |= np.int32((bits[i] & exponent) == exponent)
    return found == 0


@compiled(inline="always")
def key_of(bits):  # type: ignore[no-untyped-def]
    """An integer in the order of the finite float with these bits; -0 and +0 are both 0.

    Floats are not compared, because in TensorFlow's threads subnormal numbers are equal to 0.
    """
    # Floats are sign and magnitude: flip the magnitude of the negative ones. -0 becomes -1.
    key = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return np.int32(0) if key == np.int32(-1) else key


@compiled(inline="always")
def index_of(packed):  # type: ignore[no-untyped-def]
    """The index in the low half of what `sort_packed` has sorted."""
    return np.int32(packed & np.int64(0x7FFFFFFF))


@compiled(inline="always")
def _bounds(vector, scratch):  # type: ignore[no-untyped-def]
    """Least and largest of a finite vector; `scratch` holds at least two 32-bit integers."""
    bits = vector.view(np.int32)
    least = np.int32(0x7FFFFFFF)
    most = np.int32(-0x80000000)
    for i in range(len(bits)):  # as integers, of which several are compared at once
        key = key_of(bits[i])
        least = min(least, key)
        most = max(most, key)
    scratch[0] = key_of(least)  # flipping twice gives the bits again
    scratch[1] = key_of(most)
    values = scratch.view(np.float32)
    return values[0], values[1]


@compiled()
def sort_packed(vector, bits, numbers, ends, packed):  # type: ignore[no-untyped-def]
    """Sort finite floats with these `bits`, ties by index, unless they are crowded.

    `vector`, which rises with them, decides on the buckets. `numbers`, the bucket of each, and
    `ends`, of `ends_of_buckets`, are scratch memory of one type. `packed` gets the sorted keys,
    each in the high half of an integer whose low half is its index.
    """
    length = len(vector)
    if length == 0:
        return DONE
    least, most = _bounds(vector, packed.view(np.int32))
    buckets = len(ends) - 1
    spread = most - least
    scale = np.float32(0)
    if spread > 0:
        if not np.float32(1e-30) < spread < np.float32(1e38):
            return CROWDED  # the scale would overflow, or the spread has
        # A little less than the buckets there are, so that rounding does not lead beyond the last.
        scale = np.float32(buckets - 1) * np.float32(1 - 1e-6) / spread
    # Rounding keeps order: a larger weight never gets a lower bucket.
    for i in range(length):
        numbers[i] = np.int32((vector[i] - least) * scale)
    for bucket in range(len(ends)):
        ends[bucket] = 0
    for i in range(length):
        ends[1 + numbers[i]] += 1
    fullest = begin_buckets(ends)
    # Now bucket b begins at ends[b], and once all are placed it ends there.
    for i in range(length):
        bucket = numbers[i]
        place = ends[bucket]
        ends[bucket] = place + 1
        packed[place] = (np.int64(key_of(bits[i])) << np.int64(32)) | np.int64(i)
    if fullest > MOST_IN_A_BUCKET:
        # Equal values, such as the zeros of a sparse network, are in their order already.
        start = 0
        for bucket in range(buckets):
            if ends[bucket] - start > MOST_IN_A_BUCKET:
                for place in range(start + 1, ends[bucket]):
                    if packed[place] >> 32 != packed[start] >> 32:
                        return CROWDED
            start = ends[bucket]
    finish(packed)
    return DONE
