"""Curves over training: a metric against the epoch, or the mean over seeds against anything."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from laperm_lib.paper.plotting._common import finite, new_axes

_MARKERS = "os^DvPX*<>"
_COUNTED = re.compile(r"(.*) \((up to )?(\d+) seeds?\)")  # the labels that `over_seeds` writes
_MOST_BARS = 12  # more of them would run into each other


def training_curves(
    histories: Mapping[str, keras.callbacks.History | Mapping[str, Sequence[float]]],
    *,
    metric: str = "val_accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric against the epoch for one or several trainings.

    Args:
        histories: for each name in the legend what `fit` returned: the `History`, or its dictionary
            `history`.
        metric: the metric to draw. Default: "val_accuracy".
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. x counts epochs from 1; a training that was resumed begins where it was resumed.

    Raises:
        ValueError: if a training lacks the metric.

    Examples:
        >>> ax = training_curves({"LaPerm": {"accuracy": [0.5, 0.7]}}, metric="accuracy")
        >>> ax.lines[0].get_ydata()
        array([0.5, 0.7])
    """
    curves = {}
    for name, run in histories.items():
        epochs: Sequence[int] | None = None
        if isinstance(run, keras.callbacks.History):
            epochs, run = run.epoch, run.history
        if metric not in run:
            raise ValueError(f"'{name}' has no metric '{metric}', only {sorted(run)}.")
        curves[name] = epochs or range(len(run[metric])), run[metric]

    ax = ax or new_axes()
    colours = sns.color_palette("colorblind", len(curves))
    for (name, (epochs, values)), colour in zip(curves.items(), colours, strict=True):
        marker = "o" if len(values) == 1 else None
        ax.plot(np.add(epochs, 1), values, color=colour, marker=marker, label=name)
    ax.set(xlabel="epoch", ylabel=metric.replace("val_", "validation ").replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def over_seeds(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    levels: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw numbers of several seeds against x: their mean, and the range from lowest to highest.

    The range is a bar at each x, or a band if a series has more than a dozen of them.

    Args:
        series: for each name in the legend, and each x, the numbers of the seeds. An empty series
            is left out but keeps its colour, so that pictures with the same names have the same
            colours. A picture of empty series only says "not yet reproduced".
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
    summaries = {name: _summary(name, points) for name, points in series.items() if points}
    levels = levels or {}
    ax = ax or new_axes()
    colours = itertools.cycle(sns.color_palette("colorblind"))
    looks = zip(colours, itertools.cycle(_MARKERS), strict=False)
    for name, (colour, marker) in zip(series, looks, strict=False):
        if name not in summaries:
            continue
        label = _label(name, series[name])
        x, mean, least, most = summaries[name]
        if len(x) > _MOST_BARS:
            ax.plot(x, mean, color=colour, label=label)
            ax.fill_between(x, least, most, color=colour, alpha=0.25, linewidth=0)
        else:
            bars = [mean - least, most - mean] if (least < most).any() else None
            look = {"color": colour, "marker": marker, "markersize": 5, "capsize": 4}
            ax.errorbar(x, mean, bars, label=label, **look)
    dashes = itertools.cycle(["--", ":", "-."])
    for (name, level), dash in zip(levels.items(), dashes, strict=False):
        ax.axhline(level, linestyle=dash, color="0.35", linewidth=1.2, label=name)
    if not summaries:
        text = "not yet reproduced"
        ax.text(0.5, 0.3, text, transform=ax.transAxes, ha="center", va="center", color="0.35")
    if summaries or levels:
        ax.legend(fontsize="small")
    return ax


def shared_legend(figure: Figure) -> None:
    """Replace the legends of all axes of a figure by one below them.

    A name that has different numbers of seeds in several axes appears once, with the fewest and the
    most of them, or with the most alone if the fewest are not known.

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


def _label(name: str, points: Mapping[float, Sequence[float]]) -> str:
    """The name, and over how many seeds: what `_COUNTED` reads again."""
    counts = {len(numbers) for numbers in points.values()}
    most = max(counts)
    return f"{name} ({'up to ' if len(counts) > 1 else ''}{most} seed{'s' if most > 1 else ''})"


def _summary(name: str, points: Mapping[float, Sequence[float]]) -> tuple[np.ndarray, ...]:
    """In ascending order every x, and for each the mean, least and most of its numbers."""
    x = sorted(points)
    numbers = [finite(np.asarray(points[each], float), f"'{name}' at {each:g}") for each in x]
    least, most = (np.array([end(each) for each in numbers]) for end in (np.min, np.max))
    # A mean is rounded, and that of equal numbers may differ from them.
    mean = np.clip([np.mean(each) for each in numbers], least, most)
    return np.array(x, float), mean, least, most


def _joined(labels: Iterable[str]) -> dict[str, str]:
    """For each label the one that stands for all that differ from it in the seeds only."""
    counted = {label: _COUNTED.fullmatch(label) for label in labels}
    joined = {}
    for label, match in counted.items():
        alike = [other for other in counted.values() if match and other and other[1] == match[1]]
        joined[label] = label
        if match and len(alike) > 1:
            counts = [int(other[3]) for other in alike]
            fewest = "up" if any(other[2] for other in alike) else min(counts)
            joined[label] = f"{match[1]} ({fewest} to {max(counts)} seeds)"
    return joined
