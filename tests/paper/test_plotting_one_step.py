"""Steps drawn in detail: what is drawn is what the algorithms do."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.patches import FancyArrowPatch

from laperm_lib.cycles import reference as cycles
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper.plotting import cycle_search, permutation_trace, synchronisation_steps
from laperm_lib.permutation import reconnect, sort_values

# --- synchronisation_steps -----------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([-0.5, -0.0, 0.0, 0.25, 1.0]), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_the_last_panel_is_the_synchronised_vector_in_the_colours_of_its_values(values, seed):
    initial = np.array(values)
    trained = np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 2.0], size=len(values))
    figure = synchronisation_steps(initial, trained)
    heights = [[float(bar.get_height()) for bar in ax.patches] for ax in figure.axes]
    synchronised = reconnect(trained, sort_values(initial)).tolist()
    assert heights == [initial.tolist(), trained.tolist(), sorted(values), synchronised]
    # A colour is a rank: of the start in the first panel, of what training made in the second.
    start, moved, by_rank, last = ([b.get_facecolor() for b in ax.patches] for ax in figure.axes)
    assert moved == last
    assert sorted(start) == sorted(by_rank)
    labels = [text.get_text() for text in figure.axes[2].get_xticklabels()]
    assert [last[int(label.split("\n")[1])] for label in labels] == by_rank
    plt.close(figure)


def test_vectors_that_cannot_be_synchronised_are_refused():
    for initial, trained, message in (
        (np.ones((2, 2)), np.ones((2, 2)), "vectors of one length"),
        (np.ones(2), np.ones(3), "vectors of one length"),
        (np.ones(17), np.ones(17), "too many"),
        (np.ones(0), np.ones(0), "empty"),
        (np.ones(2), np.array([1.0, np.nan]), "'trained' contains a NaN"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            synchronisation_steps(initial, trained)
        assert isinstance(error.value, NonFiniteWeightError) == ("NaN" in message)
    assert plt.get_fignums() == []


# --- permutation_trace ---------------------------------------------------------------------------


@given(st.permutations(range(7)), st.lists(st.integers(-2, 2), min_size=7, max_size=7))
def test_lines_lead_each_value_to_its_place(order, values):
    before = np.array(values, "float32")
    after = before[np.array(order)]
    ax = permutation_trace(before, after)
    (collection,) = (each for each in ax.collections if isinstance(each, LineCollection))
    lines = np.array(collection.get_segments())
    (starts, upper), (ends, lower) = lines[:, 0].T, lines[:, 1].T
    labels = {tick.get_text(): tick.get_position()[1] for tick in ax.get_yticklabels()}
    assert set(upper) == {labels["before"]}
    assert set(lower) == {labels["after"]}
    np.testing.assert_array_equal(starts, np.arange(7))
    assert sorted(ends) == list(range(7))
    np.testing.assert_array_equal(after[ends.astype(int)], before)
    np.testing.assert_array_equal(collection.get_array(), before)
    for value in set(values):  # equal ones keep their order, so their lines do not cross
        assert (np.diff(ends[before == value]) > 0).all()
    plt.close(ax.figure)


def test_arrows_lead_each_value_of_an_image_to_its_place():
    before = np.arange(12, dtype="float32").reshape(3, 4)
    after = np.random.default_rng(4).permutation(before.ravel()).reshape(3, 4)
    ax = permutation_trace(before, after)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == (before != after).sum()
    for arrow in arrows:
        # Matplotlib has no public way to read back where an arrow goes.
        (x0, y0), (x1, y1) = arrow._posA_posB
        assert after[y1, x1] == before[y0, x0]
    np.testing.assert_array_equal(ax.images[0].get_array(), after)


def test_what_is_no_permutation_is_refused():
    for before, after, message in (
        ([1.0, 2.0], [1.0, 3.0], "not a permutation"),
        ([0.0, 1.0], [-0.0, 1.0], "not a permutation"),
        ([1.0, 1.0, 2.0], [1.0, 2.0, 2.0], "not a permutation"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "not a permutation"),
        ([[1.0, 2.0]], [[1.0], [2.0]], "not a permutation"),
        (np.ones(2, "float32"), np.ones(2, "float64"), "not a permutation"),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1)), "one or two dimensions"),
        ([], [], "empty"),
        ([np.nan, 1.0], [1.0, np.nan], "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            permutation_trace(before, after)
    assert plt.get_fignums() == []


# --- cycle_search --------------------------------------------------------------------------------

WEIGHTS = np.array([7.0, 3, 9, 2, 12, 10, 11, 6, 1, 5, 4, 8])
WISHES = np.array([-7.0, -10, -6, 1, 9, 4, 8, 5, -11, -3, -2, 0])
PLACES = np.array([1, 4, 9, 10, 7, 6, 2, 8, 3, 11, 0, 5])
HOW = {"size": 6, "alpha": 0.15, "initial_range": 11.0}


def points_of(ax, area_above=0):
    """The (slot, weight) of all markers of at least an area."""
    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    found = [c for c in found if len(c.get_offsets()) and c.get_sizes()[0] >= area_above]
    return {tuple(map(float, point)) for c in found for point in c.get_offsets()}


def arrows_of(ax):
    """Start and end of each arrow."""
    arrows = [text for text in ax.texts if text.arrowprops is not None]
    return {(tuple(a.xyann), tuple(a.xy)) for a in arrows}


def test_the_four_steps_of_the_example():
    panels = cycle_search(WEIGHTS, WISHES, PLACES, **HOW).axes[:4]
    first, second, third, fourth = panels
    for ax in panels:
        assert {text.get_text() for text in ax.texts} - {""} == {str(n) for n in range(1, 13)}
        assert {patch.get_x() + 0.5 for patch in ax.patches} == set(PLACES[6:].tolist())  # shaded
    start = {(float(slot), weight) for slot, weight in enumerate(WEIGHTS)}
    for ax in (first, second, third):
        assert points_of(ax, area_above=100) == start

    # An arrow from each piece that wants something, upwards where the gradient is negative.
    wished = {start[0]: end[1] - start[1] for start, end in arrows_of(first)}
    signs = {slot: -np.sign(wish) for slot, wish in enumerate(WISHES) if wish}
    assert {slot: np.sign(length) for slot, length in wished.items()} == signs
    assert abs(wished[8]) == max(map(abs, wished.values()))

    # Slot 8 holds a 1 and may only take the 2; slot 4 holds the 12 and may take the 11.
    candidates = points_of(second) - start
    assert {weight for slot, weight in candidates if slot == 8} == {2}
    assert {weight for slot, weight in candidates if slot == 4} == {11}
    assert len(candidates) == 17

    # 1 -> 10 -> 9 -> 7 and 8 <-> 3 and 0 -> 2 -> 5: each takes the piece of the next.
    taken = {(8, 3), (3, 8), (1, 10), (10, 9), (9, 7), (7, 1), (0, 2), (2, 5), (5, 0)}
    moves = {((source, WEIGHTS[source]), (slot, WEIGHTS[source])) for slot, source in taken}
    assert arrows_of(third) == moves
    assert len({text.arrow_patch.get_edgecolor() for text in third.texts if text.arrowprops}) == 3

    new = WEIGHTS.copy()
    for slot, source in taken:
        new[slot] = WEIGHTS[source]
    assert points_of(fourth) == {(float(slot), weight) for slot, weight in enumerate(new)}


@settings(max_examples=10)
@given(st.data())
def test_what_is_drawn_at_the_end_is_the_rearrangement(data):
    d = data.draw(st.integers(1, 14))
    whole = st.integers(-5, 5).map(float)
    weights, wishes = (np.array(data.draw(st.lists(whole, min_size=d, max_size=d))) for _ in "ab")
    places = np.array(data.draw(st.permutations(range(d))))
    how = {"size": data.draw(st.integers(1, d)), "alpha": 0.2}
    initial_range = float(np.ptp(weights))
    figure = cycle_search(weights, wishes, places, initial_range=initial_range, **how)
    new = cycles.permute_vector(weights, wishes, places, spread=initial_range, **how)
    assert points_of(figure.axes[3]) == {(float(slot), weight) for slot, weight in enumerate(new)}
    plt.close(figure)


def test_impossible_arguments_are_refused_before_anything_is_drawn():
    arguments = {"weights": WEIGHTS, "recommendation": WISHES, "places": PLACES}
    for change, message in (
        ({"weights": WEIGHTS[:5]}, "vectors of one length"),
        ({"weights": np.eye(12)}, "vectors of one length"),
        ({"places": PLACES + 1}, "places is not a permutation of 0 to 11"),
        ({"recommendation": np.full(12, np.nan)}, "'recommendation' contains a NaN"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            cycle_search(**arguments | change, **HOW)
        assert isinstance(error.value, NonFiniteWeightError) == ("NaN" in message)
    assert plt.get_fignums() == []
