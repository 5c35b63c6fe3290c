"""The signed-rank test, against its definition."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from laperm_lib.paper.studies.signed_rank import wilcoxon


def by_enumeration(differences):
    """The share of all ways to sign the ranks that are at least as uneven."""
    values = np.array([d for d in differences if d])
    ranks = stats.rankdata(np.abs(values))
    seen = abs((ranks * np.sign(values)).sum())
    sums = [abs((ranks * signs).sum()) for signs in product((-1, 1), repeat=len(values))]
    return np.mean([total >= seen - 1e-9 for total in sums])


@hypothesis_settings(max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_it_is_wilcoxons_signed_rank_test_ties_and_zeros_included(differences):
    result = wilcoxon(differences)
    assert result.p_value == pytest.approx(by_enumeration(differences) if any(differences) else 1)
    assert result.mean == pytest.approx(np.mean(differences))
    assert result.positive == sum(d > 0 for d in differences)
    assert result.seeds == len(differences)


@hypothesis_settings(max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_the_other_way_round_it_says_the_same(differences):
    one, other = wilcoxon(differences), wilcoxon([-d for d in differences])
    assert one.p_value == pytest.approx(other.p_value)
    assert one.mean == -other.mean


def test_five_seeds_are_too_few_and_six_may_do():
    assert wilcoxon(range(1, 6)).p_value == 0.0625
    assert wilcoxon(range(1, 7)).p_value == 0.03125
    with pytest.raises(ValueError, match="no differences"):
        wilcoxon([])
