"""Numbers over seeds: their mean and range against anything, for several kinds of runs."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laperm_lib.paper.plotting.canvas import axes, finite

NOTHING = "not yet reproduced"
"""Stands in a picture that there are no runs for."""

_MARKERS = "os^DvPX*<>"
_COUNTED = re.compile(r"(.*) \((up to )?(\d+) seeds?\)")  # what `_label` makes
_MOST_BARS = 12  # more of them would run into each other


def over_seeds(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    levels: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw numbers of several seeds against x: their mean, and their range from lowest to highest.

    The range is a bar at each x, or a band where a series has more than a dozen of them.

    Args:
        series: for each name in the legend, and each x, the numbers of the seeds. A series without
            any is left out, but keeps its colour for itself, so that pictures with the same names
            have the same colours. A picture without any series says `NOTHING`.
        levels: for each name in the legend a number to compare with, a horizontal line. Default:
            none.
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: if an x has no number.
        NonFiniteWeightError: if a number is NaN or infinite.

    Examples:
        >>> ax = over_seeds({"LaPerm": {20: [0.7, 0.8], 100: [0.9]}, "Adam": {}})
        >>> ax.get_legend_handles_labels()[1]
        ['LaPerm (up to 2 seeds)']
    """
    summaries = {name: _summaries(name, points) for name, points in series.items() if points}
    ax = axes(ax)
    colours = itertools.cycle(sns.color_palette("colorblind"))
    looks = zip(colours, itertools.cycle(_MARKERS), strict=False)
    for (name, points), (colour, marker) in zip(series.items(), looks, strict=False):
        if points:
            _draw(ax, _label(name, points), summaries[name], colour, marker)
    dashes = itertools.cycle(["--", ":", "-."])
    for (name, level), dash in zip((levels or {}).items(), dashes, strict=False):
        ax.axhline(level, linestyle=dash, color="0.35", linewidth=1.2, label=name)
    if not summaries:
        ax.text(0.5, 0.3, NOTHING, transform=ax.transAxes, ha="center", va="center", color="0.35")
    if summaries or levels:
        ax.legend(fontsize="small")
    return ax


def shared_legend(figure: Figure) -> None:
    """Put one legend below all axes of a figure, in the place of theirs.

    What has one name in several axes and there another number of seeds is named once, with the
    fewest and the most, or the most alone where the fewest are not told.

    Args:
        figure: laid out by `layout="constrained"`.

    Examples:
        >>> import matplotlib.pyplot as plt
        >>> figure, axes = plt.subplots(1, 2, layout="constrained")
        >>> for ax in axes:
        ...     ax = over_seeds({"LaPerm": {20: [0.7]}}, levels={"published": 0.8}, ax=ax)
        >>> shared_legend(figure)
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['published', 'LaPerm (1 seed)']
    """
    labelled = [
        pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)
    ]
    joined = _joined(label for _, label in labelled)
    handles: dict[str, Any] = {}
    for handle, label in labelled:
        handle.set_label(joined[label])
        handles.setdefault(joined[label], handle)
    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize="small"
    )


def _summaries(name: str, points: Mapping[float, Sequence[float]]) -> np.ndarray:
    """One row for each x in ascending order: x, and the mean, least and most of its numbers."""
    rows = []
    for x in sorted(points):
        numbers = finite(np.asarray(points[x], dtype=float), f"'{name}' at {x:g}")
        # A mean is rounded, and that of equal numbers may lie beside them.
        mean = np.clip(numbers.mean(), numbers.min(), numbers.max())
        rows.append((x, mean, numbers.min(), numbers.max()))
    return np.array(rows, dtype=float)


def _label(name: str, points: Mapping[float, Sequence[float]]) -> str:
    """The name, and over how many seeds."""
    counts = {len(numbers) for numbers in points.values()}
    most = max(counts)
    if most == 1:
        return f"{name} (1 seed)"
    return f"{name} ({'' if counts == {most} else 'up to '}{most} seeds)"


def _joined(labels: Iterable[str]) -> dict[str, str]:
    """For each label the one that stands for all that have its name and other numbers of seeds."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}  # fewest, 0 where unknown, and most
    joined = {}
    for label in labels:
        match = _COUNTED.fullmatch(label)
        if match is None:
            joined[label] = label
        else:
            most = int(match[3])
            counts.setdefault(match[1], {})[label] = (0 if match[2] else most, most)
    for name, of_name in counts.items():
        least = min(fewest for fewest, _ in of_name.values())
        most = max(most for _, most in of_name.values())
        together = f"{name} ({f'{least} to' if least else 'up to'} {most} seeds)"
        for label in of_name:
            joined[label] = label if len(of_name) == 1 else together
    return joined


def _draw(ax: Axes, label: str, summaries: np.ndarray, colour: Any, marker: str) -> None:
    x, mean, least, most = summaries.T
    if len(x) > _MOST_BARS:
        ax.plot(x, mean, color=colour, label=label)
        ax.fill_between(x, least, most, color=colour, alpha=0.25, linewidth=0)
    else:
        bars = [mean - least, most - mean] if (least < most).any() else None
        ax.errorbar(
            x, mean, bars, color=colour, marker=marker, markersize=5, capsize=4, label=label
        )
