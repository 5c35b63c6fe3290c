"""Networks of one hidden layer that approximate a function: how they are made, and sliders."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import bokeh.plotting
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from bokeh.embed import json_item
from bokeh.layouts import column
from bokeh.models import CDSView, ColumnDataSource, GroupFilter, IntersectionFilter
from bokeh.models.widgets import CategoricalSlider
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from laperm_lib.paper.plotting._common import new_axes
from laperm_lib.paper.plotting.interactive import Interactive
from laperm_lib.paper.studies.universal_approximation import Construction, ramps

_FOLLOWED: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}
_HEIGHT = 300  # pixels
_COLOUR = sns.color_palette("colorblind")[2]  # of the construction


def approximation(
    networks: Mapping[str, np.ndarray], function: np.ndarray, *, ax: Axes | None = None
) -> Axes:
    """Draw networks, and the function that they follow, from 0 to 1.

    Args:
        networks: by their names in the legend, values at evenly spaced x, shape (points,).
        function: its values at the same x.
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes.

    Examples:
        >>> ax = approximation({"LaPerm": np.zeros(3)}, np.ones(3))
        >>> [line.get_label() for line in ax.lines]
        ['LaPerm', 'function']
    """
    ax = ax or new_axes()
    x = np.linspace(0, 1, len(function))
    for (name, network), colour in zip(
        networks.items(), itertools.cycle(sns.color_palette("colorblind")), strict=False
    ):
        ax.plot(x, network, color=colour, label=name)
    ax.plot(x, function, label="function", **_FOLLOWED)
    ax.set(xlabel="x")
    ax.legend()
    return ax


def construction(network: Construction, function: Callable[[np.ndarray], np.ndarray]) -> Figure:
    """Draw how a network that `universal_approximation.construct` has made comes about.

    Args:
        network: with at least one step up and two unused couples of biases.
        function: that it approximates.

    Raises:
        ValueError: if there are fewer.

    Returns:
        A figure of three panels, with the four ramps of a step up and their sum; with the four
        straight lines of its first two unused couples and their sum; and with network and function.
    """
    ups, unused = np.flatnonzero(network.steps > 0), np.flatnonzero(network.steps == 0)
    if len(ups) < 1 or len(unused) < 2:
        raise ValueError("The network needs a step up and two unused couples: take another width.")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    x = np.linspace(0, 1, 1001)
    width = len(network.coefficients) // 2
    # Axes: points, rising or falling, couples, biases of a couple.
    parts = (ramps(x, width) * network.coefficients).reshape(len(x), 2, -1, 2)
    step = parts[:, :, ups[len(ups) // 2]].reshape(len(x), -1)
    lines = parts[:, :, unused[:2]].sum(axis=1).reshape(len(x), -1)
    for ax, shown, title in zip(
        axes, (step, lines), ("two pairs: a step", "four unused pairs: a constant"), strict=False
    ):
        ax.plot(x, shown, color="0.6", linewidth=1)
        ax.plot(x, shown.sum(axis=1), color=_COLOUR, linewidth=2, label="sum")
        ax.set(title=title, xlabel="x")
        ax.legend()
    axes[2].plot(x, network(x), color=_COLOUR, linewidth=2, label="network")
    axes[2].plot(x, function(x), label="function", **_FOLLOWED)
    axes[2].set(title=f"all {width} pairs, scaled and shifted", xlabel="x")
    axes[2].legend()
    return figure


class Sliders(Interactive):
    """One line of many, chosen by two sliders, and the function that it should follow.

    A slider sets a filter, by a statement that Bokeh writes. Where nothing is interactive, the
    picture stays.

    Args:
        figure: the picture. It is closed.
        lines: by name of the function and width, values at evenly spaced x from 0 to 1.
        functions: by name, those of the functions at the same x.
        alt: what the picture shows.

    Raises:
        ValueError: as `Interactive`.

    Examples:
        >>> figure, ax = plt.subplots()
        >>> lines = {("one", 2): np.zeros(3), ("one", 4): np.ones(3)}
        >>> shown = Sliders(figure, lines, {"one": np.ones(3)}, alt="An empty figure.")
        >>> "CategoricalSlider" in shown._repr_html_()
        True
    """

    def __init__(
        self,
        figure: Figure,
        lines: Mapping[tuple[str, int], np.ndarray],
        functions: Mapping[str, np.ndarray],
        *,
        alt: str,
    ) -> None:
        super().__init__(figure, alt=alt)
        panel: Any = bokeh.plotting.figure(
            height=_HEIGHT,
            sizing_mode="stretch_width",
            x_axis_label="x",
            tools="pan,box_zoom,wheel_zoom,reset",
        )
        panel.toolbar.logo = None
        panel.toolbar.autohide = True
        choices = {
            "function": list(functions),
            "width": [str(width) for width in sorted({width for _, width in lines})],
        }
        sliders, filters = [], {}
        for column_name, values in choices.items():
            chosen = values[len(values) // 2]
            slider = CategoricalSlider(title=column_name, categories=values, value=chosen)
            filters[column_name] = GroupFilter(column_name=column_name, group=chosen)
            slider.js_link("value", filters[column_name], "group")
            sliders.append(slider)
        drawn: dict[str, list[Any]] = {
            "function": [name for name, _ in lines],
            "width": [str(width) for _, width in lines],
            "y": [np.asarray(y, "float32") for y in lines.values()],
        }
        followed: dict[str, list[Any]] = {
            "function": list(functions),
            "y": [np.asarray(y, "float32") for y in functions.values()],
        }
        both = IntersectionFilter(operands=list(filters.values()))
        dashed = {"color": "#595959", "line_dash": "dashed", "line_width": 1.5}
        solid = {"color": to_hex(_COLOUR), "line_width": 2}
        for rows, shown, look in (
            (followed, filters["function"], dashed),
            (drawn, both, solid),
        ):
            x = np.linspace(0, 1, len(rows["y"][0]), dtype="float32")
            source = ColumnDataSource(rows | {"x": [x] * len(rows["y"])})
            panel.multi_line("x", "y", source=source, view=CDSView(filter=shown), **look)
        layout = column(*sliders, panel, sizing_mode="stretch_width")
        self.item = json.loads(json.dumps(json_item(layout)))
