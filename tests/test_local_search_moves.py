"""The moves of a gradient-free search, on arrays alone, against loops of their own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.local_search import moves
from laperm_lib.permutation import to_matrix

SHAPES = [((6, 3), (-1,)), ((2, 2, 3, 4), (-1,)), ((5,), ()), ((7, 1), (-1,))]


def drawn(which, seed, sigma, few=False):
    """Weights, the places of each weight vector, and random numbers for these."""
    generator, (shape, axes) = np.random.default_rng(seed), which
    # Few values have many ties.
    weights = generator.choice([-1, 0, 2], shape) if few else generator.normal(size=shape)
    rows = to_matrix(np.arange(weights.size).reshape(shape), axes)
    noise = sigma * np.random.default_rng(seed).standard_normal(rows.shape)
    return weights.astype("float32"), rows, noise


@given(
    st.sampled_from(SHAPES), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 0.1, 10.0])
)
def test_exchanges_pair_neighbours_in_a_noisy_order(which, seed, few, sigma):
    weights, rows, noise = drawn(which, seed, sigma, few)
    found = moves.exchanges(weights, which[1], sigma, np.random.default_rng(seed))
    flat = weights.ravel()
    for move, row, xi in zip(found, rows, noise, strict=True):
        order = [place for _, place in sorted(zip((flat[row] + xi).tolist(), row, strict=True))]
        pairs = zip(order[: len(order) // 2 * 2 : 2], order[1::2], strict=True)
        pairs = [[one, other] for one, other in pairs if flat[one] != flat[other]]
        assert move.places.tolist() == pairs
        assert move.values.tolist() == [[[flat[other], flat[one]]] for one, other in pairs]


@given(st.sampled_from(SHAPES), st.integers(0, 99))
def test_additions_visit_every_weight_once_and_go_both_ways(which, seed):
    weights, rows, deltas = drawn(which, seed, sigma=0.5)
    found = moves.additions(weights, which[1], 0.5, np.random.default_rng(seed))
    for move, row, delta in zip(found, rows, deltas.astype("float32"), strict=True):
        np.testing.assert_array_equal(move.places, row[:, None])
        old = weights.ravel()[row]
        np.testing.assert_array_equal(move.values[..., 0].T, [old + delta, old - delta])
        assert move.values.dtype == weights.dtype
