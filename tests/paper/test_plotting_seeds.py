"""Numbers over seeds are drawn with their mean and range, and nothing that is not there."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper import plotting

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def legend(ax):
    return ax.get_legend_handles_labels()[1]


@given(st.dictionaries(st.integers(0, 1000), numbers, min_size=1, max_size=6))
def test_mean_and_range_are_those_of_the_seeds(points):
    ax = plotting.over_seeds({"LaPerm": points})
    (container,) = ax.containers
    line, caps, _ = container.lines
    x = sorted(points)
    np.testing.assert_array_equal(line.get_xdata(), x)
    np.testing.assert_allclose(line.get_ydata(), [np.mean(points[each]) for each in x], atol=1e-6)
    least, most = [min(points[each]) for each in x], [max(points[each]) for each in x]
    if least == most:
        assert not caps
    else:
        drawn = np.array([cap.get_ydata() for cap in caps], dtype=float)
        np.testing.assert_allclose(drawn, [least, most], atol=1e-6)
    plt.close(ax.figure)


def test_many_places_make_a_band():
    points = {x: [0.1 * x, 0.1 * x + 1] for x in range(20)}
    ax = plotting.over_seeds({"LaPerm": points})
    (band,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    bounds = band.get_paths()[0].get_extents()
    assert (bounds.ymin, bounds.ymax) == pytest.approx((0, 2.9))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.1 * x + 0.5 for x in range(20)])


@pytest.mark.parametrize(
    ("points", "label"),
    [
        ({1: [0.5]}, "a (1 seed)"),
        ({1: [0.5, 0.6], 2: [0.5, 0.7]}, "a (2 seeds)"),
        ({1: [0.5, 0.6], 2: [0.5]}, "a (up to 2 seeds)"),
    ],
)
def test_legend_counts_seeds(points, label):
    assert legend(plotting.over_seeds({"a": points})) == [label]


def test_what_there_is_not_is_left_out_and_said():
    ax = plotting.over_seeds({"a": {}, "b": {1: [0.5]}})
    assert legend(ax) == ["b (1 seed)"]
    assert not ax.texts
    empty = plotting.over_seeds({"a": {}}, levels={"published": 0.9})
    assert [text.get_text() for text in empty.texts] == [plotting.NOTHING]
    assert legend(empty) == ["published"]
    assert plotting.over_seeds({}).get_legend() is None


def test_levels_are_horizontal_lines_of_their_own_dash():
    ax = plotting.over_seeds({"a": {1: [0.5]}}, levels={"p = 0": 0.9, "p = 0.5": 0.8})
    drawn = [line for line in ax.lines if line.get_label().startswith("p = ")]
    assert [line.get_ydata()[0] for line in drawn] == [0.9, 0.8]
    assert len({line.get_linestyle() for line in drawn}) == 2


def test_series_differ_in_colour_and_marker():
    ax = plotting.over_seeds({str(n): {1: [n]} for n in range(6)})
    lines = [container.lines[0] for container in ax.containers]
    assert len({line.get_marker() for line in lines}) == 6
    assert len({matplotlib.colors.to_hex(line.get_color()) for line in lines}) == 6


def test_a_series_without_numbers_keeps_its_colour():
    both = plotting.over_seeds({"a": {1: [0.5]}, "b": {1: [0.6]}})
    one = plotting.over_seeds({"a": {}, "b": {1: [0.6]}})
    assert both.containers[1].lines[0].get_color() == one.containers[0].lines[0].get_color()


def test_a_shared_legend_takes_the_place_of_all():
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    plotting.over_seeds({"a": {1: [0.5]}, "b": {}}, ax=left)
    plotting.over_seeds({"a": {1: [0.4]}, "b": {1: [0.6]}}, levels={"published": 0.7}, ax=right)
    plotting.shared_legend(figure)
    (shared,) = figure.legends
    labels = [text.get_text() for text in shared.get_texts()]
    assert sorted(labels) == ["a (1 seed)", "b (1 seed)", "published"]
    assert left.get_legend() is None
    assert right.get_legend() is None


def test_a_shared_legend_names_once_what_has_other_numbers_of_seeds():
    figure, axes = plt.subplots(1, 3, layout="constrained")
    for ax, seeds in zip(axes, (5, 1, 2), strict=True):
        plotting.over_seeds({"a": {1: range(seeds)}, "b": {1: [0.6]}}, ax=ax)
    plotting.shared_legend(figure)
    (shared,) = figure.legends
    assert [text.get_text() for text in shared.get_texts()] == ["a (1 to 5 seeds)", "b (1 seed)"]
    for ax in axes:
        assert ax.get_legend_handles_labels()[1] == ["a (1 to 5 seeds)", "b (1 seed)"]


def test_a_shared_legend_does_not_tell_what_is_not_known():
    figure, axes = plt.subplots(1, 2, layout="constrained")
    for ax, seeds in zip(axes, (1, 2), strict=True):
        plotting.over_seeds({"a": {1: range(seeds), 2: [0.5, 0.6]}}, ax=ax)
    plotting.shared_legend(figure)
    (shared,) = figure.legends
    assert [text.get_text() for text in shared.get_texts()] == ["a (up to 2 seeds)"]


def test_draws_where_it_is_told_and_changes_no_setting():
    before = dict(matplotlib.rcParams)
    _, (_, right) = plt.subplots(1, 2)
    assert plotting.over_seeds({"a": {1: [0.5]}}, ax=right) is right
    assert matplotlib.rcParams == before


@pytest.mark.parametrize(
    ("numbers", "error"), [([], ValueError), ([0.5, float("nan")], NonFiniteWeightError)]
)
def test_impossible_numbers_are_named(numbers, error):
    with pytest.raises(error, match="'LaPerm' at 20"):
        plotting.over_seeds({"LaPerm": {20: numbers}})
