"""Training curves: a metric against the epoch, for one or several trainings."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from laperm_lib.paper.plotting.canvas import axes

Run: TypeAlias = keras.callbacks.History | Mapping[str, Sequence[float]]
"""What one call of `fit` returned, or its `history` dictionary."""

_DASHES = ("-", "--", ":", "-.")


def training_curves(
    histories: Mapping[str, Run | Sequence[Run]],
    *,
    metric: str = "val_accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric against the epoch for one or several trainings.

    Args:
        histories: for each name in the legend what `fit` returned (the `History` or its
            dictionary), or a list of those: runs that differ in their seed, drawn as their
            mean in a band from the lowest to the highest run.
        metric: the metric to draw. Default: "val_accuracy".
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. x is the number of epochs done.

    Raises:
        ValueError: if there is nothing to draw, a run lacks the metric, or the runs of one name
            do not cover the same epochs.

    Examples:
        >>> runs = [{"accuracy": [0.5, 0.7]}, {"accuracy": [0.7, 0.8]}]
        >>> ax = training_curves({"LaPerm": runs}, metric="accuracy")
        >>> ax.get_legend_handles_labels()[1]
        ['LaPerm (2 runs)']
    """
    if not histories:
        raise ValueError("There is no history to draw.")
    curves = {name: _curves(name, runs, metric) for name, runs in histories.items()}

    ax = axes(ax)
    colours = sns.color_palette("colorblind", len(curves))
    # The palette repeats after ten colours, so the dashes change there.
    dashes = itertools.cycle(dash for dash in _DASHES for _ in sns.color_palette("colorblind"))
    for (name, (epochs, values)), colour, dash in zip(
        curves.items(), colours, dashes, strict=False
    ):
        label = f"{name} ({len(values)} runs)" if len(values) > 1 else name
        marker = "o" if len(epochs) == 1 else None
        ax.plot(epochs, values.mean(axis=0), dash, color=colour, marker=marker, label=label)
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            ax.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="epoch", ylabel=metric.replace("val_", "validation ").replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def _curves(name: str, runs: Run | Sequence[Run], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs, shape (n,), and the metric of every run, shape (runs, n)."""
    if isinstance(runs, keras.callbacks.History | Mapping):
        runs = [runs]
    if not runs:
        raise ValueError(f"'{name}' has no runs.")
    epochs, values = zip(*(_curve(name, run, metric) for run in runs), strict=True)
    if any(not np.array_equal(other, epochs[0]) for other in epochs):
        raise ValueError(f"The runs of '{name}' do not cover the same epochs.")
    return epochs[0], np.array(values)


def _curve(name: str, run: Run, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs, counted from 1, and the metric of one run."""
    history = run.history if isinstance(run, keras.callbacks.History) else run
    if metric not in history:
        raise ValueError(f"'{name}' has no metric '{metric}', only {sorted(history)}.")
    values = np.asarray(history[metric], dtype=float)
    # A training that was continued starts at a later epoch, and says so; a dictionary does not.
    first = run.epoch[0] if isinstance(run, keras.callbacks.History) and run.epoch else 0
    return first + 1 + np.arange(len(values)), values
