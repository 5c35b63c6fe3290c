"""The places of weight vectors in random order, compiled by Numba.

Random words fill buckets alike, by their highest bits, so sorting them takes linear time. The
result is that of `cycles.shuffle`, which also does it where Numba is not installed.
"""

import numpy as np

from laperm_lib._numba import available, compiled, in_blocks
from laperm_lib.cycles import reference as cycles
from laperm_lib.synchronisation.sorting import (
    CROWDED,
    DONE,
    MOST_IN_A_BUCKET,
    begin_buckets,
    finish,
    new_ends,
)


def shuffle(words: np.ndarray) -> np.ndarray:
    """The places of weight vectors in random order, as `cycles.shuffle` gives them.

    Args:
        words: random 64-bit unsigned integers, one for each place, shape (rows, d).

    Returns:
        The numbers 0 to d - 1, each row in an order of its own, shape (rows, d), dtype int32.

    Examples:
        >>> shuffle(np.array([[5, 1, 3]], "uint64") << np.uint64(61)).tolist()
        [[1, 2, 0]]
    """
    if not available:
        return cycles.shuffle(words)
    places = np.empty(words.shape, np.int32)
    outcome = np.empty(len(words), np.uint8)

    place_bits = max(1, (words.shape[1] - 1).bit_length())

    def rows(first: int, last: int) -> None:
        # Twice as many buckets as the lowest bits, which hold the places, can number.
        ends = new_ends(2 << place_bits)
        _shuffle_rows(words[first:last], place_bits, ends, places[first:last], outcome[first:last])

    in_blocks(rows, len(words), words.size)
    left = np.flatnonzero(outcome == CROWDED)
    if left.size:
        places[left] = cycles.shuffle(words[left])
    return places


@compiled()
def _shuffle_rows(words, place_bits, ends, places, outcome):  # type: ignore[no-untyped-def]
    """Sort words with their places in the lowest bits, and keep the places."""
    rows, length = words.shape
    low = np.uint64((1 << place_bits) - 1)
    shift = np.uint64(63 - place_bits)
    keys = np.empty(length, np.uint64)
    for row in range(rows):
        for bucket in range(len(ends)):
            ends[bucket] = 0
        behind = ends[1:]
        for i in range(length):
            behind[np.int64(words[row, i] >> shift)] += 1
        if begin_buckets(ends) > MOST_IN_A_BUCKET:
            outcome[row] = CROWDED
            continue
        for i in range(length):
            word = words[row, i]
            place = ends[np.int64(word >> shift)]
            ends[np.int64(word >> shift)] = place + 1
            keys[place] = (word & ~low) | np.uint64(i)
        finish(keys)
        for i in range(length):
            places[row, i] = np.int32(keys[i] & low)
        outcome[row] = DONE
