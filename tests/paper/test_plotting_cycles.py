import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection

from laperm_lib.cycles import reference as cycles
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper.plotting.cycles import cycle_search

WEIGHTS = np.array([7.0, 3, 9, 2, 12, 10, 11, 6, 1, 5, 4, 8])
WISHES = np.array([-7.0, -10, -6, 1, 9, 4, 8, 5, -11, -3, -2, 0])
PLACES = np.array([1, 4, 9, 10, 7, 6, 2, 8, 3, 11, 0, 5])
HOW = {"size": 6, "alpha": 0.15, "spread": 11.0}


def panels(figure):
    return figure.axes[:4]


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
    first, second, third, fourth = panels(cycle_search(WEIGHTS, WISHES, PLACES, **HOW))
    start = {(float(slot), weight) for slot, weight in enumerate(WEIGHTS)}
    for ax in (first, second, third):
        assert points_of(ax, area_above=100) == start

    # An arrow from each piece that wants something, upwards where the gradient is negative.
    wished = {start[0]: end[1] - start[1] for start, end in arrows_of(first)}
    assert {slot: np.sign(length) for slot, length in wished.items()} == {
        slot: -np.sign(wish) for slot, wish in enumerate(WISHES) if wish
    }
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


def test_pieces_are_labelled_and_parts_shaded():
    figure = cycle_search(WEIGHTS, WISHES, PLACES, **HOW)
    for ax in panels(figure):
        labels = {text.get_text() for text in ax.texts if text.get_text()}
        assert labels == {str(n) for n in range(1, 13)}
        shaded = {patch.get_x() + 0.5 for patch in ax.patches}
        assert shaded == set(PLACES[6:].tolist())


@settings(max_examples=10)
@given(st.data())
def test_what_is_drawn_at_the_end_is_the_rearrangement(data):
    d = data.draw(st.integers(1, 14))
    whole = st.integers(-5, 5).map(float)
    weights, wishes = (np.array(data.draw(st.lists(whole, min_size=d, max_size=d))) for _ in "ab")
    places = np.array(data.draw(st.permutations(range(d))))
    how = {"size": data.draw(st.integers(1, d)), "alpha": 0.2, "spread": float(np.ptp(weights))}
    figure = cycle_search(weights, wishes, places, **how)
    new = cycles.rearrange_reference(weights, wishes, places, **how)
    expected = {(float(slot), weight) for slot, weight in enumerate(new)}
    assert points_of(panels(figure)[3]) == expected
    plt.close(figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": WEIGHTS[:5]}, "three vectors of one length"),
        ({"weights": np.eye(12)}, "three vectors of one length"),
        ({"places": PLACES + 1}, "places is not a permutation of 0 to 11"),
        ({"recommendation": np.full(12, np.nan)}, "recommendation holds a NaN"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_drawn(change, message):
    arguments = {"weights": WEIGHTS, "recommendation": WISHES, "places": PLACES} | change
    with pytest.raises(ValueError, match=message) as error:
        cycle_search(**arguments, **HOW)
    assert isinstance(error.value, NonFiniteWeightError) == ("NaN" in message)
    assert plt.get_fignums() == []


def test_global_settings_are_left_alone():
    before = matplotlib.rcParams.copy()
    cycle_search(WEIGHTS, WISHES, PLACES, **HOW)
    assert matplotlib.rcParams == before
