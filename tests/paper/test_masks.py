"""Tests of laperm_lib.paper.studies.masks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.paper.experiments.profiles import PUBLISHED
from laperm_lib.paper.studies.masks import expected_best, fan_in

accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(accuracies, st.data())
def test_the_expected_best_is_the_mean_over_all_choices(values, data):
    count = data.draw(st.integers(1, len(values)))
    bests = [max(choice) for choice in itertools.combinations(values, count)]
    assert expected_best(values, count) == pytest.approx(np.mean(bests), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=300))
def test_more_trials_are_never_worse(values):
    counts = sorted({1, 2, len(values) // 2 + 1, len(values)})
    bests = [expected_best(values, count) for count in counts]
    assert bests[0] == pytest.approx(np.mean(values))
    assert bests[-1] == max(values)
    assert all(fewer <= more + 1e-12 for fewer, more in itertools.pairwise(bests))


@pytest.mark.parametrize("count", [0, 4, -1, 2.0])
def test_impossible_choices(count):
    with pytest.raises(ValueError, match="Of 3 trials"):
        expected_best([0.1, 0.2, 0.3], count)


def test_a_fan_in_is_that_of_the_mask_and_constant_if_asked_for():
    f2 = PUBLISHED["f2"]
    by_chance = fan_in(f2, seed=1)
    assert all(layer.min() < layer.max() for layer in by_chance)
    kept = [
        layer.sum() / (layer.size * d) for layer, d in zip(by_chance, (784, 128, 64), strict=True)
    ]
    assert kept == pytest.approx(f2.keep, abs=0.06)
    constant = fan_in(replace(f2, constant_fan_in=True), seed=1)
    assert [set(layer.tolist()) for layer in constant] == [{52}, {18}, {21}]
