"""A metric against the epoch, and numbers over seeds with their mean and range."""

import keras
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


def legend(ax):
    return ax.get_legend_handles_labels()[1]


def test_each_training_is_a_line_that_begins_where_it_was_resumed():
    resumed = keras.callbacks.History()
    resumed.epoch, resumed.history = [3, 4], {"val_accuracy": [0.5, 0.6]}
    runs = {"Adam": {"val_accuracy": [0.1, 0.4, 0.3]}, "more": resumed}
    ax = plotting.training_curves(runs | {"short": {"val_accuracy": [0.5]}})
    points = [list(zip(*line.get_data(), strict=True)) for line in ax.lines]
    assert points == [[(1, 0.1), (2, 0.4), (3, 0.3)], [(4, 0.5), (5, 0.6)], [(1, 0.5)]]
    assert legend(ax) == ["Adam", "more", "short"]
    assert ax.get_ylabel() == "validation accuracy"
    assert ax.lines[2].get_marker() == "o"  # one epoch would be invisible


def test_many_places_make_a_band():
    points = {x: [0.1 * x, 0.1 * x + 1] for x in range(20)}
    ax = plotting.over_seeds({"LaPerm": points})
    (band,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    bounds = band.get_paths()[0].get_extents()
    assert (bounds.ymin, bounds.ymax) == pytest.approx((0, 2.9))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.1 * x + 0.5 for x in range(20)])


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


def test_an_empty_series_is_left_out_and_a_picture_of_them_says_so():
    both = plotting.over_seeds({"a": {1: [0.5]}, "b": {1: [0.6]}})
    one = plotting.over_seeds({"a": {}, "b": {1: [0.6]}})
    assert legend(one) == ["b (1 seed)"]
    assert not one.texts
    # It keeps its colour for itself.
    assert both.containers[1].lines[0].get_color() == one.containers[0].lines[0].get_color()
    empty = plotting.over_seeds({"a": {}}, levels={"published": 0.9})
    assert [text.get_text() for text in empty.texts] == ["not yet reproduced"]
    assert legend(empty) == ["published"]
    assert plotting.over_seeds({}).get_legend() is None
    some = {"a": {1: [0.5, 0.6], 2: [0.5, 0.7]}, "b": {1: [0.5, 0.6], 2: [0.5]}}
    assert legend(plotting.over_seeds(some)) == ["a (2 seeds)", "b (up to 2 seeds)"]


def test_series_and_levels_can_be_told_apart():
    levels = {"p = 0": 0.9, "p = 0.5": 0.8}
    ax = plotting.over_seeds({str(n): {1: [n]} for n in range(6)}, levels=levels)
    lines = [container.lines[0] for container in ax.containers]
    assert len({line.get_marker() for line in lines}) == 6
    assert len({matplotlib.colors.to_hex(line.get_color()) for line in lines}) == 6
    drawn = [line for line in ax.lines if line.get_label() in levels]
    assert [line.get_ydata()[0] for line in drawn] == [0.9, 0.8]
    assert len({line.get_linestyle() for line in drawn}) == 2


@pytest.mark.parametrize(
    ("seeds", "label"),
    [
        ([{1: range(5)}, {1: [0.6]}, {1: range(2)}], "a (1 to 5 seeds)"),
        ([{1: range(2)}, {}, {1: range(2)}], "a (2 seeds)"),
        ([{1: [0.6], 2: [0.5, 0.6]}, {1: range(2)}, {}], "a (up to 2 seeds)"),  # fewest unknown
    ],
)
def test_a_shared_legend_replaces_all_and_has_each_name_once(seeds, label):
    figure, axes = plt.subplots(1, 3, layout="constrained")
    for ax, points in zip(axes, seeds, strict=True):
        plotting.over_seeds({"a": points, "b": {1: [0.6]}}, levels={"published": 0.7}, ax=ax)
    plotting.shared_legend(figure)
    (shared,) = figure.legends
    labels = {label, "b (1 seed)", "published"}
    assert sorted(text.get_text() for text in shared.get_texts()) == sorted(labels)
    for ax, points in zip(axes, seeds, strict=True):
        assert ax.get_legend() is None
        assert set(legend(ax)) == labels - (set() if points else {label})


def test_impossible_numbers_are_named_and_nothing_is_drawn():
    for numbers, error in (([], ValueError), ([0.5, float("nan")], NonFiniteWeightError)):
        with pytest.raises(error, match="'LaPerm' at 20"):
            plotting.over_seeds({"LaPerm": {20: numbers}})
    with pytest.raises(ValueError, match=r"'a' has no metric 'val_accuracy', only \['loss'\]"):
        plotting.training_curves({"a": {"loss": [1.0]}})
    assert plt.get_fignums() == []
