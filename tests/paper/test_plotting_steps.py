"""One synchronisation drawn step by step."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib import NonFiniteWeightError
from laperm_lib.paper.plotting import synchronisation_steps
from laperm_lib.permutation import reconnect, sort_values


def heights(ax):
    return [float(bar.get_height()) for bar in ax.patches]


def colours(ax):
    return [bar.get_facecolor() for bar in ax.patches]


@given(
    st.lists(st.sampled_from([-0.5, -0.0, 0.0, 0.25, 1.0]), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_the_last_panel_is_the_synchronised_vector_in_the_colours_of_its_values(values, seed):
    initial = np.array(values)
    trained = np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 2.0], size=len(values))
    figure = synchronisation_steps(initial, trained)
    start, moved, given_out, synchronised = figure.axes
    assert heights(start) == initial.tolist()
    assert heights(moved) == trained.tolist()
    assert heights(given_out) == sorted(values)
    assert heights(synchronised) == reconnect(trained, sort_values(initial)).tolist()
    # A colour is a rank: of the start in the first panel, of what training made in the second.
    assert colours(moved) == colours(synchronised)
    by_rank = colours(given_out)
    assert sorted(colours(start)) == sorted(by_rank)
    labels = [text.get_text() for text in given_out.get_xticklabels()]
    gets = [int(label.split("\n")[1]) for label in labels]
    assert [colours(synchronised)[place] for place in gets] == by_rank
    plt.close(figure)


@pytest.mark.parametrize(
    ("initial", "trained", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 2)), "two vectors"),
        (np.ones(2), np.ones(3), "two vectors"),
        (np.ones(17), np.ones(17), "cannot be followed"),
        (np.ones(0), np.ones(0), "empty"),
    ],
)
def test_what_cannot_be_followed(initial, trained, message):
    with pytest.raises(ValueError, match=message):
        synchronisation_steps(initial, trained)


def test_a_weight_that_is_not_finite():
    with pytest.raises(NonFiniteWeightError, match="trained"):
        synchronisation_steps(np.ones(2), np.array([1.0, np.nan]))
