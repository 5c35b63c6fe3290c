"""Networks that approximate a function: the parts of the construction, and the sliders."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from laperm_lib.paper import plotting
from laperm_lib.paper.studies.universal_approximation import TARGETS, construct

BUMP = TARGETS["bump"].function


def test_parts_of_the_construction_add_up():
    figure = plotting.construction(construct(BUMP, 20), BUMP)
    step, lines, _ = figure.axes
    for ax in (step, lines):
        *parts, total = (line.get_ydata() for line in ax.lines)
        assert len(parts) == 4
        assert np.allclose(sum(parts), total)
    assert np.ptp(step.lines[-1].get_ydata()) > 0.01
    assert np.ptp(lines.lines[-1].get_ydata()) < 1e-12
    plt.close(figure)


def test_construction_without_unused_pairs_is_refused():
    with pytest.raises(ValueError, match="take another width"):
        plotting.construction(construct(lambda x: x, 20), lambda x: x)


def test_networks_are_drawn_with_the_function_last():
    ax = plotting.approximation({"LaPerm": np.zeros(5), "Adam": np.ones(5)}, np.full(5, 2.0))
    assert [line.get_ydata()[0] for line in ax.lines] == [0, 1, 2]
    plt.close(ax.figure)


def found(item, kind):
    """All of Bokeh's models of a kind in a description."""
    if isinstance(item, dict):
        own = [item] if item.get("name") == kind and item.get("type") == "object" else []
        return own + [each for value in item.values() for each in found(value, kind)]
    return [each for value in item for each in found(value, kind)] if isinstance(item, list) else []


def test_each_slider_sets_the_filter_of_its_column():
    lines = {(name, width): np.ones(3) for name in "ab" for width in (2, 10, 4)}
    functions = {name: np.zeros(3) for name in "ab"}
    figure = plotting.approximation({}, np.ones(3)).figure
    shown = plotting.Sliders(figure, lines, functions, alt="Nothing.")
    sliders = [each["attributes"] for each in found(shown.item, "CategoricalSlider")]
    assert [each["categories"] for each in sliders] == [["a", "b"], ["2", "4", "10"]]
    filters = {each["id"]: each["attributes"] for each in found(shown.item, "GroupFilter")}
    for slider in sliders:
        [[_, [callback]]] = slider["js_property_callbacks"]["entries"]
        [[_, linked]] = callback["attributes"]["args"]["entries"]
        assert filters[linked["id"]]["column_name"] == slider["title"]
        assert filters[linked["id"]]["group"] == slider["value"]
    with pytest.raises(ValueError, match="alt"):
        plotting.Sliders(figure, lines, functions, alt="")
