"""The moves of a gradient-free search, on arrays alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.local_search import moves
from laperm_lib.permutation import is_permutation, to_matrix

SHAPES = [((6, 3), (-1,)), ((2, 2, 3, 4), (-1,)), ((5,), ()), ((7, 1), (-1,))]


def weights_of(shape, seed, few):
    generator = np.random.default_rng(seed)
    if few:  # with many ties
        return generator.choice(np.float32([-1, 0, 2]), size=shape)
    return generator.normal(size=shape).astype("float32")


@given(
    st.sampled_from(SHAPES), st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 0.1, 10.0])
)
def test_exchanges_leave_every_vector_a_permutation(which, seed, few, sigma):
    shape, axes = which
    weights = weights_of(shape, seed, few)
    found = moves.exchanges(weights, axes, sigma, np.random.default_rng(seed))
    assert len(found) == len(to_matrix(weights, axes))
    flat = weights.ravel().copy()
    for move in found:
        assert len(set(move.places.ravel().tolist())) == move.places.size  # a weight in one at most
        for places, [values] in zip(move.places, move.values, strict=True):
            assert values[0] != values[1]
            assert flat[places].tolist() == values[::-1].tolist()
            flat[places] = values
            now = to_matrix(flat.reshape(shape), axes)
            assert is_permutation(to_matrix(weights, axes), now)


@given(st.sampled_from(SHAPES), st.integers(0, 99))
def test_additions_visit_every_weight_once_and_go_both_ways(which, seed):
    shape, axes = which
    weights = weights_of(shape, seed, few=False)
    found = moves.additions(weights, axes, 0.5, np.random.default_rng(seed))
    places = np.concatenate([move.places.ravel() for move in found])
    assert sorted(places.tolist()) == list(range(weights.size))
    assert (
        places.tolist() == to_matrix(np.arange(weights.size).reshape(shape), axes).ravel().tolist()
    )
    for move in found:
        middle = move.values[..., 0].astype("float64").mean(axis=1)
        np.testing.assert_allclose(middle, weights.flat[move.places[:, 0]], atol=1e-6)
        assert move.values.dtype == weights.dtype


@pytest.mark.parametrize(("sigma", "farther", "nearer"), [(0.0, 0.0, 0.01), (100.0, 0.8, 1.5)])
def test_sigma_says_how_far_apart_the_values_of_a_pair_are(sigma, farther, nearer):
    weights = np.random.default_rng(0).normal(size=(1000, 4))
    found = moves.exchanges(weights, (-1,), sigma, np.random.default_rng(1))
    distance = np.concatenate([np.abs(np.diff(move.values)).ravel() for move in found]).mean()
    assert farther <= distance <= nearer  # of two independent normal numbers it is 1.13
