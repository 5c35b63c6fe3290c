r"""SGPerm's cycles without a graph, compiled by Numba, on all cores.

The graph of `cycles.reference` need not be built, because within a part it is made of intervals.
Sort the places by weight. A place s that wants more may take from every place above it up to the
distance :math:`\varepsilon`; those that want more lead further up, those that want less lead down.

*A place s that wants more lies on a cycle if and only if a place that is not used up, wants less
and lies above s lies within* :math:`\varepsilon` *of it.* A cycle through s begins upwards and must
come back to s or jump over it; only a place v above s that wants less does that, and its interval
then reaches s. Conversely s may take from such a v, and v from s.

So the search never turns back where it finds something. It tries the nearest weight first, and of
equal ones a place that wants the other way. From s it therefore goes up through every weight that
only places wanting more hold, one place for each, to the nearest weight of a place v that wants
less. v reaches s and closes the cycle: all on the way move up by a weight, and v comes down. "The
next place above that is not used up and wants more (less)" is found by a disjoint-set forest in
almost constant time. What remains is the sorting, so the time is about linear in the number of
weights, however long the parts and however large :math:`\varepsilon`.

References:
    Tarjan, "Efficiency of a good but not linear set union algorithm", JACM 22, 1975.
"""

import numpy as np

from laperm_lib._numba import compiled, in_blocks
from laperm_lib.cycles import reference
from laperm_lib.synchronisation.sorting import (
    CROWDED,
    DONE,
    MOST_IN_A_BUCKET,
    begin_buckets,
    finish,
    new_ends,
    order_of_size,
    sort_order,
)

_LEAST_BLOCK = 4096  # With fewer weights than this, handing them to a thread takes longer.


def permute_vectors(
    weights: np.ndarray,
    recommendation: np.ndarray,
    places: np.ndarray,
    *,
    size: int,
    alpha: float,
    spread: np.ndarray,
) -> np.ndarray:
    """`reference.permute_vector` of each row of matrices of shape (neurons, d)."""
    # Numba knows no floats of 16 bits; all of them are float32 too.
    dtype = np.float64 if weights.dtype == np.float64 else np.float32
    permuted = np.empty(weights.shape, dtype)

    def permute_block(_: int, first: int, last: int) -> None:
        block = slice(first, last)
        values = np.ascontiguousarray(weights[block], dtype)
        wishes = np.ascontiguousarray(recommendation[block])
        _permute_rows(
            values,
            # Unsigned, for Numba asks of any other index whether it is negative.
            sort_order(values).view(np.uint32),
            wishes,
            order_of_size(wishes).view(np.uint32),
            np.ascontiguousarray(places[block], np.uint32),
            size,
            alpha,
            spread[block].astype(np.float64),
            permuted[block],
        )

    in_blocks(permute_block, [weights.shape], least=_LEAST_BLOCK)
    return permuted.astype(weights.dtype, copy=False)


@compiled(inline="always")
def _find(forest, slot):  # type: ignore[no-untyped-def]
    """The root of a slot: the next free one, or "none". Halves the paths that it follows."""
    while forest[slot] != slot:
        forest[slot] = forest[forest[slot]]
        slot = forest[slot]
    return slot


@compiled(inline="always")
def _use_up(slot, step, ahead, back):  # type: ignore[no-untyped-def]
    """Take a free slot out of the two forests that it is in."""
    ahead[slot] = slot + step
    back[slot] = slot - step


@compiled(inline="always")
def _search(  # type: ignore[no-untyped-def]
    start, step, epsilon, slots, near, far, same, same_back, other, other_back, source
):
    """Look for a cycle from a slot, and permute along it; use up what lies on it.

    Ahead is above (`step` 1) from a start that wants more, below (-1) from one that wants less.
    `near` and `far` give the first and last slot ahead of equal weight. `same` and `other` lead
    ahead to the free slots that want as `start` does, or the other way; `..._back` lead back.
    """
    place, value = slots
    turn = _find(other, far[start] + step)
    _use_up(start, step, same, same_back)
    if abs(value[turn] - value[start]) <= epsilon:
        here = start
        ahead = _find(same, far[start] + step)
        while (near[turn] - ahead) * step > 0:
            source[place[here]] = place[ahead]
            _use_up(ahead, step, same, same_back)
            here = ahead
            ahead = _find(same, far[here] + step)
        source[place[here]] = place[turn]
        source[place[turn]] = place[start]
        _use_up(turn, step, other, other_back)


@compiled()
def _permute_rows(weights, by_weight, wishes, by_wish, places, size, alpha, spread, new):  # type: ignore[no-untyped-def]
    """Permute each row of weights into `new`.

    Each place of a row has a slot: part follows part, each sorted by weight. Around every part lie
    slots that stand for "none": their value is NaN, so equal to no weight and within no reach.
    """
    neurons, d = weights.shape
    parts = (d + size - 1) // size
    count = d + parts + 1
    part = np.empty(d, np.uint32)  # by place
    slot = np.empty(d, np.uint32)  # by place
    source = np.empty(d, np.uint32)  # by place: the place whose weight it takes
    filled = np.empty(parts, np.uint32)  # the last slot of a part that is taken
    epsilon = np.empty(parts, np.float64)
    place = np.empty(count, np.uint32)  # by slot, as all that follows
    value = np.empty(count, np.float64)
    lowest = np.empty(count, np.uint32)  # the first slot of the part with the same weight
    highest = np.empty(count, np.uint32)  # the last
    # The forests: a free slot that wants more (less) is a root, another one points to its neighbour
    # above (below), or farther in that direction.
    more_above = np.empty(count, np.uint32)
    less_above = np.empty(count, np.uint32)
    more_below = np.empty(count, np.uint32)
    less_below = np.empty(count, np.uint32)
    for k in range(parts + 1):
        none = min(k * (size + 1), count - 1)
        value[none] = np.nan
        more_above[none] = less_above[none] = more_below[none] = less_below[none] = none
    for row in range(neurons):
        for k in range(parts):
            filled[k] = k * (size + 1)
            end = min((k + 1) * size, d)
            epsilon[k] = spread[row] * (alpha + 1.0 / (end - k * size))
            for i in range(k * size, end):
                part[places[row, i]] = k
        for rank in range(d):
            here = by_weight[row, rank]
            filled[part[here]] += 1
            s = filled[part[here]]
            slot[here] = s
            place[s] = here
            value[s] = weights[row, here]
            wants_more = wishes[row, here] < 0
            wants_less = wishes[row, here] > 0
            more_above[s] = s if wants_more else s + 1
            more_below[s] = s if wants_more else s - 1
            less_above[s] = s if wants_less else s + 1
            less_below[s] = s if wants_less else s - 1
            source[here] = here
        for s in range(1, count):
            lowest[s] = lowest[s - 1] if value[s] == value[s - 1] else s
        for s in range(count - 2, 0, -1):
            highest[s] = highest[s + 1] if value[s] == value[s + 1] else s

        slots = (place, value)
        for i in range(d):
            here = by_wish[row, i]
            start = slot[here]
            if more_above[start] == start:
                _search(
                    start, 1, epsilon[part[here]], slots, lowest, highest,
                    more_above, more_below, less_above, less_below, source,
                )  # fmt: skip
            elif less_above[start] == start:
                _search(
                    start, -1, epsilon[part[here]], slots, highest, lowest,
                    less_below, less_above, more_below, more_above, source,
                )  # fmt: skip
        for here in range(d):
            new[row, here] = weights[row, source[here]]


def shuffle(words: np.ndarray) -> np.ndarray:
    """`reference.shuffle` in linear time: the highest bits of random words fill buckets alike."""
    places = np.empty(words.shape, np.int32)
    outcome = np.empty(len(words), np.uint8)
    place_bits = max(1, (words.shape[1] - 1).bit_length())

    def shuffle_block(_: int, first: int, last: int) -> None:
        # Twice as many buckets as the lowest bits, which hold the places, can number.
        ends = new_ends(2 << place_bits)
        _shuffle_rows(words[first:last], place_bits, ends, places[first:last], outcome[first:last])

    in_blocks(shuffle_block, [words.shape], least=_LEAST_BLOCK)
    left = np.flatnonzero(outcome == CROWDED)
    if left.size:
        places[left] = reference.shuffle(words[left])
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
        after = ends[1:]
        for i in range(length):
            after[np.int64(words[row, i] >> shift)] += 1
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
