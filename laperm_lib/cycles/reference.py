r"""SGPerm's step for one weight vector, written for reading: cycles of recommended moves.

A step is four functions:

1. `recommend`: each place says whether it wants a larger or a smaller weight, and how much.
2. `graph`: which weights, not too far from its own, a place may take.
3. `find_cycles`: cycles of places, each of which may take the weight of the next one.
4. `permute`: the weights of each cycle move on by one place.

`permute_vector` does the last three; `cycles.compiled` gives the same bits, far faster.

References:
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (versions 1 to 4).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from laperm_lib.errors import NonFiniteWeightError

Graph = Mapping[int, Sequence[int]]
"""For each place that wants a change, the places whose weight it may take, in order of trial."""


def recommend(
    previous: np.ndarray, gradient: np.ndarray, *, learning_rate: float, momentum: float
) -> np.ndarray:
    r"""Step 1: what every place wants, :math:`m \leftarrow \eta g + \mu m`.

    Negative: the weight at this place wants to increase. Positive: to decrease. Zero: nothing. Only
    the order and the signs count, so a constant learning rate :math:`\eta` changes nothing.

    >>> recommend(np.array([0.0, 1.0]), np.array([-2.0, 1.0]), learning_rate=0.5, momentum=0.5)
    array([-1.,  1.])
    """
    dtype = previous.dtype.type
    # NumPy makes a number of what it calculates with arrays of shape ().
    new = np.asarray(dtype(learning_rate) * gradient.astype(dtype) + dtype(momentum) * previous)
    # Where the gradient stays zero m only decays, and would want the same for ever. TensorFlow's
    # threads take subnormal numbers for zero, others do not: here they are zero in all.
    new[np.abs(new) < np.finfo(dtype).tiny] = 0
    return new


def shuffle(words: np.ndarray) -> np.ndarray:
    """The places 0 to d - 1 in the order of random 64-bit `words`, shape (..., d), dtype int32.

    >>> shuffle(np.array([5, 1, 3], "uint64") << np.uint64(32)).tolist()
    [1, 2, 0]
    """
    d = words.shape[-1]
    # Sorting the words sorts the places that stand in their lowest bits.
    low = np.uint64((1 << max(1, (d - 1).bit_length())) - 1)
    keys = (words & ~low) | np.arange(d, dtype=np.uint64)
    keys.sort(axis=-1)
    return (keys & low).astype(np.int32)


def part_size(d: int, ratio: float, minimum: int = 10) -> int:
    r"""How many of d places make a part: :math:`\max(n_\min, \lfloor \lambda d \rfloor)`.

    >>> part_size(784, 0.05), part_size(100, 0.05), part_size(9, 0.05)
    (39, 10, 9)
    """
    return min(d, max(minimum, int(ratio * d)))


def reach(spread: float, alpha: float, count: int) -> float:
    r"""How far a weight may be from the one that it replaces, in a part of n = `count` places.

    .. math:: \varepsilon = (\max w_0 - \min w_0) \, (\alpha + 1 / n).

    `spread` is max - min of the initial weights, and `alpha` the aggressiveness.
    """
    return spread * (alpha + 1 / count)


def graph(
    weights: Sequence[float], recommendation: Sequence[float], part: Iterable[int], epsilon: float
) -> Graph:
    r"""Step 2: which places of a part may take whose weight.

    Place i may take the weight of place j if :math:`w_j` lies on the wished side of :math:`w_i` and
    :math:`|w_j - w_i| \le \varepsilon`. The nearest is tried first; of equal weights, those whose
    places want to go the other way; of these, the first on the way from i through the places sorted
    by weight, equal weights by place. Places that want nothing are left out.

    >>> graph([1.0, 2.0, 3.0, 9.0], [-1.0, -1.0, 1.0, 0.0], range(4), epsilon=2.0)
    {0: [1, 2], 1: [2], 2: [1, 0]}
    """
    ordered = sorted((i for i in part if recommendation[i]), key=lambda i: (weights[i], i))
    edges = {}
    for position, i in enumerate(ordered):
        wants_more = recommendation[i] < 0
        ahead = ordered[position + 1 :] if wants_more else ordered[:position][::-1]
        within = [j for j in ahead if weights[j] != weights[i]]
        within = [j for j in within if abs(weights[j] - weights[i]) <= epsilon]
        # By weight, not by distance: distances of different weights can be rounded to the same.
        direction = 1 if wants_more else -1
        within.sort(key=lambda j: (direction * weights[j], (recommendation[j] < 0) == wants_more))
        edges[i] = within
    return edges


def find_cycles(edges: Graph, recommendation: Sequence[float]) -> list[list[int]]:
    """Step 3: cycles through the graph, no two of which share a place.

    From each place, those with the largest recommendation of either sign first, equal ones by
    place, a depth-first search looks for a way back to it. The cycle is closed as soon as the place
    reached may take the weight of the first. Its places are used up; where no way leads back, the
    first place alone is.

    >>> find_cycles({0: [1, 2], 1: [2], 2: [1, 0]}, [-1.0, -3.0, 2.0])
    [[1, 2]]
    """
    free = set(edges)
    cycles = []
    for start in sorted(edges, key=lambda i: (-abs(recommendation[i]), i)):
        if start in free:
            cycle = _search(start, edges, free)
            free -= {start, *cycle}
            if cycle:
                cycles.append(cycle)
    return cycles


def _search(start: int, edges: Graph, free: set[int]) -> list[int]:
    """The first way from a place back to itself, or an empty list."""
    visited = {start}
    path, trials = [start], [iter(edges[start])]
    while path:
        # A failed place stays visited: all that it leads to has been tried.
        ahead = next((j for j in trials[-1] if j in free and j not in visited), None)
        if ahead is None:
            path.pop()
            trials.pop()
            continue
        visited.add(ahead)
        path.append(ahead)
        trials.append(iter(edges[ahead]))
        if start in edges[ahead]:
            return path
    return []


def permute(weights: np.ndarray, cycles: Iterable[Sequence[int]]) -> np.ndarray:
    """Step 4: each place of a cycle takes the weight of the next one, the last that of the first.

    >>> permute(np.array([1.0, 2.0, 3.0, 9.0]), [[0, 1, 2]]).tolist()
    [2.0, 3.0, 1.0, 9.0]
    """
    new = weights.copy()
    for cycle in cycles:
        new[list(cycle)] = weights[[*cycle[1:], cycle[0]]]
    return new


def search_parts(
    weights: np.ndarray,
    recommendation: np.ndarray,
    places: np.ndarray,
    *,
    size: int,
    alpha: float,
    spread: float,
) -> Iterator[tuple[list[int], Graph, list[list[int]]]]:
    """Steps 2 and 3 for one weight vector: the places, graph and cycles of one part after another.

    `places` are those of `shuffle`; each `size` of them in turn make a part, the last may be less.
    """
    values, wishes = weights.astype(float).tolist(), recommendation.tolist()
    for first in range(0, len(places), size):
        part = places[first : first + size].tolist()
        edges = graph(values, wishes, part, reach(spread, alpha, len(part)))
        yield part, edges, find_cycles(edges, wishes)


def permute_vector(
    weights: np.ndarray,
    recommendation: np.ndarray,
    places: np.ndarray,
    *,
    size: int,
    alpha: float,
    spread: float,
) -> np.ndarray:
    """Steps 2 to 4 for one weight vector; the arguments are those of `search_parts`.

    >>> weights, wishes = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-1.0, -1.0, 1.0, 1.0])
    >>> permute_vector(weights, wishes, np.arange(4), size=4, alpha=0.5, spread=0.3).tolist()
    [0.2, 0.3, 0.1, 0.4]
    """
    if not (np.isfinite(weights).all() and np.isfinite(recommendation).all()):
        raise NonFiniteWeightError("A weight or recommendation is a NaN or an infinity.")
    parts = search_parts(weights, recommendation, places, size=size, alpha=alpha, spread=spread)
    return permute(weights, [cycle for _, _, cycles in parts for cycle in cycles])
