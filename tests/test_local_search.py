"""Local search by a loss that needs no network: the squared distance from a target."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.local_search import Counts, moves, search


class Distance:
    """Losses of weights that ought to be a target; `coupling` makes moves disturb each other."""

    def __init__(self, weights, target, coupling=0.0):
        self.weights, self.target, self.coupling = weights.copy(), target, coupling
        self.losses = [self._loss(self.weights)]

    @property
    def loss(self):
        return self.losses[-1]

    def _loss(self, weights):
        difference = weights - self.target
        coupled = self.coupling * difference.sum() ** 2 if self.coupling else 0.0
        return float((difference**2).sum() + coupled)

    def of(self, places, values):
        found = np.empty(values.shape[:2])
        for move, alternative in np.ndindex(found.shape):
            changed = self.weights.copy()
            changed.flat[places[move]] = values[move, alternative]
            found[move, alternative] = self._loss(changed)
        return found

    def keep(self, places, values):
        self.weights.flat[places] = values
        self.losses.append(self._loss(self.weights))


def drawn(seed, kind):
    generator = np.random.default_rng(seed)
    weights, target = generator.normal(size=(2, 6, 3))
    return weights, target, moves.KINDS[kind](weights, (-1,), 0.5, generator)


@given(st.integers(0, 999), st.sampled_from(sorted(moves.KINDS)), st.sampled_from([0.0, 3.0]))
def test_one_at_a_time_is_the_published_rule(seed, kind, coupling):
    weights, target, found = drawn(seed, kind)
    expected = weights.copy()
    for vector in found:  # as it is read: the best of the present network and its alternatives
        for places, alternatives in zip(vector.places, vector.values, strict=True):
            candidates = [expected.copy() for _ in range(1 + len(alternatives))]
            for candidate, values in zip(candidates[1:], alternatives, strict=True):
                candidate.flat[places] = values
            expected = min(candidates, key=Distance(weights, target, coupling)._loss)
    losses = Distance(weights, target, coupling)
    search(losses, weights, found, together=1)
    np.testing.assert_array_equal(weights, expected)


@given(
    st.integers(0, 999),
    st.sampled_from(sorted(moves.KINDS)),
    st.integers(1, 9),
    st.sampled_from([0.0, 3.0]),
)
def test_the_loss_never_rises_and_everything_is_counted(seed, kind, together, coupling):
    weights, target, found = drawn(seed, kind)
    losses = Distance(weights, target, coupling)
    before = weights.copy()
    counts = search(losses, weights, found, together)
    np.testing.assert_array_equal(weights, losses.weights)
    assert losses.losses[-1] <= losses.losses[0]
    if together == 1:
        assert losses.losses == sorted(losses.losses, reverse=True)
    assert counts.updates == sum(vector.places.size for vector in found)
    assert counts.candidates == sum(vector.values[..., 0].size for vector in found)
    assert counts.changed == np.count_nonzero(weights != before)


def test_moves_that_spoil_each_other_leave_the_best_of_them():
    weights, target = np.full((2, 1), 2.0), np.ones((2, 1))
    losses = Distance(weights, target, coupling=2.0)  # 10; 1.75 or 2 with one move, 5.75 with both
    found = [moves.Moves(np.array([[0], [1]]), np.array([[[0.5]], [[0.0]]]))]
    assert search(losses, weights, found, together=2) == Counts(2, 1, 2)
    np.testing.assert_array_equal(weights, [[0.5], [2.0]])
    assert losses.loss == 1.75


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_candidates_without_a_finite_loss_are_not_taken(bad):
    weights, target = np.ones((1, 1)), np.zeros((1, 1))
    losses = Distance(weights, target)
    found = [moves.Moves(np.array([[0]]), np.array([[[bad]]]))]
    assert search(losses, weights, found, together=1) == Counts(1, 0, 1)
    assert weights == 1


def test_differences_of_rounding_decide_nothing():
    weights, target = np.full((1, 1), 1.0), np.zeros((1, 1))
    found = [moves.Moves(np.array([[0]]), np.array([[[1.0 - 1e-16]]]))]
    search(Distance(weights, target), weights, found, together=1)
    assert weights == 1
