"""Pictures of weights and of training: weight profiles, permutation traces and learning curves.

As in seaborn, functions that draw one picture take `ax` and return the Matplotlib axes, those that
lay out several return the figure. Nothing is shown and no global setting is changed. Colours come
from seaborn's "colorblind" palette and Matplotlib's "cividis".

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 2 (weight profiles).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from laperm_lib import weight_vectors
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import from_matrix, is_permutation, sort_order, to_matrix

Run: TypeAlias = keras.callbacks.History | Mapping[str, Sequence[float]]
"""What one call of `fit` returned, or its `history` dictionary."""

MAX_LINES = 256
"""Up to this many weight vectors are drawn one by one, more as quantile bands."""

MAX_POINTS = 512
"""Longer weight vectors are drawn at this many evenly spaced places, both ends among them."""

_BANDS = ((0.0, 1.0), (0.05, 0.95), (0.25, 0.75))
_GRID_COLUMNS = 4
_PANEL_INCHES = (3.2, 2.6)
_DASHES = ("-", "--", ":", "-.")


def vector_profile(matrix: np.ndarray, *, presorted: bool = False, ax: Axes | None = None) -> Axes:
    """Draw weight vectors on one axis: weight against rank, every vector sorted.

    Up to `MAX_LINES` vectors are one line each. More would hide each other, so the median over the
    vectors and the bands that hold the middle 50 %, 90 % and 100 % of them are drawn at each rank.

    Args:
        matrix: one weight vector per row, shape (vectors, d).
        presorted: draw the weights in the order they are stored instead. Default: sorted.
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. x is the relative rank (place) in [0, 1], y the weight.

    Raises:
        ValueError: if `matrix` is not a matrix or is empty.
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> ax = vector_profile(np.array([[0.3, -0.1, 0.2], [0.0, 0.4, -0.2]]))
        >>> len(ax.collections[0].get_segments())
        2

    References:
        Qiu and Suda, NeurIPS 2020, section 2.
    """
    vectors = _finite(np.asarray(matrix), "The matrix of weight vectors")
    if vectors.ndim != 2:
        raise ValueError(f"Expected one weight vector per row, got shape {vectors.shape}.")
    if not presorted:
        vectors = np.sort(vectors, axis=1)
    return _draw_vectors(vectors, presorted, _axes(ax))


def weight_profile(
    model_or_layer: keras.Layer,
    *,
    kinds: Iterable[weight_vectors.Kind] = ("kernel",),
    presorted: bool = False,
) -> Figure:
    """Draw the weight profile of a layer, or of every layer of a model in a grid.

    Each panel shows the weight vectors of one variable as `vector_profile` does. Where the lines
    lie on each other, the layer has similar weight profiles (SoWP).

    Args:
        model_or_layer: a built Keras model or layer.
        kinds: the kinds of variables to draw: "kernel", "bias", "normalization". Default: kernels.
        presorted: also draw, to the left of each panel, the weights in the order they are stored.
            Default: the sorted view alone.

    Returns:
        The figure, a grid of up to four panels a row, or with `presorted` a row per variable.

    Raises:
        ValueError: if there is no variable of those kinds, or the model is not built.
        NonFiniteWeightError: if a weight is NaN or infinite; the message names the variable.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
        >>> [ax.get_title() for ax in weight_profile(model).axes]
        ['d/kernel: 3 × 4']

    References:
        Qiu and Suda, NeurIPS 2020, section 2.
    """
    found = weight_vectors.of(model_or_layer, kinds=kinds)
    if not found:
        wanted = " or ".join(kinds)
        raise ValueError(f"'{model_or_layer.name}' has no trainable {wanted} to draw.")
    matrices = [_finite(vectors.matrix(), f"'{vectors.path}'") for vectors in found]

    columns = 2 if presorted else min(_GRID_COLUMNS, len(found))
    rows = len(found) if presorted else math.ceil(len(found) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows),
        sharey="row" if presorted else False,
        squeeze=False,
        layout="constrained",
    )
    panels = iter(grid.flat)
    for vectors, matrix in zip(found, matrices, strict=True):
        for stored in (True, False) if presorted else (False,):
            ax = vector_profile(matrix, presorted=stored, ax=next(panels))
            ax.set_title(
                f"{vectors.path}: {matrix.shape[0]} × {matrix.shape[1]}", fontsize="medium"
            )
    for unused in panels:
        unused.remove()
    return figure


def permutation_trace(
    before: np.ndarray,
    after: np.ndarray,
    *,
    neuron_axes: tuple[int, ...] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw an arrow from where each value was to where it is.

    A vector is drawn as two rows, the places before above those after, and a line for each value.
    A two-dimensional array is drawn as the image of `after` with an arrow for each value that
    moved. Both are readable up to some hundred values. Equal values keep their order.

    Args:
        before: the values at first, shape (d,) or (rows, columns).
        after: the same values, rearranged; same shape and dtype.
        neuron_axes: the axes that run over neurons, within which no value moves: (-1,) for a dense
            kernel (in, out). Default: the whole array is one weight vector.
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. Lines, image and arrows share one colour scale, the value.

    Raises:
        ValueError: if the arrays are not one- or two-dimensional, or if some weight vector of
            `after` is not bit for bit a permutation of the same one of `before`.
        NonFiniteWeightError: if a value is NaN or infinite.

    Examples:
        >>> ax = permutation_trace(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.1, 0.2]))
        >>> [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
        [[0.0, 1.0], [1.0, 2.0], [2.0, 0.0]]
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape or before.dtype != after.dtype:
        raise ValueError(
            f"The arrays differ: {before.dtype} of shape {before.shape} before, "
            f"{after.dtype} of shape {after.shape} after."
        )
    if before.ndim not in (1, 2):
        raise ValueError(f"Expected one or two dimensions, got shape {before.shape}.")
    if not is_permutation(to_matrix(before, neuron_axes), to_matrix(after, neuron_axes)):
        raise ValueError("'after' is not a permutation of 'before', bit for bit.")

    destination = _destinations(before, after, neuron_axes)
    if before.ndim == 1:
        return _draw_lines(before, destination, _axes(ax))
    return _draw_arrows(after, destination, _axes(ax))


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

    ax = _axes(ax)
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


def _axes(ax: Axes | None) -> Axes:
    """The given axes, or new ones."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values, if there are any and all are finite."""
    if values.size == 0:
        raise ValueError(f"{what} is empty.")
    if not np.isfinite(values).all():
        raise NonFiniteWeightError(f"{what} holds a NaN or an infinity.")
    return values


def _draw_vectors(vectors: np.ndarray, presorted: bool, ax: Axes) -> Axes:
    """Draw the rows as lines, or as quantile bands if there are many."""
    count, d = vectors.shape
    # One weight is a profile too: a level line.
    places = np.unique(np.linspace(0, d - 1, min(d, MAX_POINTS)).round().astype(int))
    places = np.repeat(places, 2) if d == 1 else places
    x = np.linspace(0, 1, 2) if d == 1 else places / (d - 1)
    y = vectors[:, places]

    colour = sns.color_palette("colorblind")[0]
    if count <= MAX_LINES:
        points = np.stack([np.broadcast_to(x, y.shape), y], axis=-1)
        alpha = float(np.clip(10 / count, 0.15, 1.0))
        ax.add_collection(
            LineCollection(list(points), colors=[colour], linewidths=0.8, alpha=alpha)
        )
        ax.autoscale_view()
    else:
        for low, high in np.quantile(y, _BANDS, axis=0).reshape(len(_BANDS), 2, -1):
            ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(x, np.median(y, axis=0), color=colour, linewidth=1.2)
    ax.set(xlabel="place / (d − 1)" if presorted else "rank / (d − 1)", ylabel="weight")
    return ax


def _destinations(
    before: np.ndarray, after: np.ndarray, neuron_axes: tuple[int, ...]
) -> np.ndarray:
    """For each place of `before`, the flat index of the place of `after` that its value went to."""
    source, target = (
        sort_order(to_matrix(values.astype(float), neuron_axes)) for values in (before, after)
    )
    # The value of rank r was at source[r] and is at target[r].
    flat = to_matrix(np.arange(before.size).reshape(before.shape), neuron_axes)
    destination = np.empty_like(flat)
    np.put_along_axis(destination, source, np.take_along_axis(flat, target, axis=-1), axis=-1)
    return from_matrix(destination, before.shape, neuron_axes)


def _draw_lines(before: np.ndarray, destination: np.ndarray, ax: Axes) -> Axes:
    """Link the places of a vector, drawn above, to the places their values went to."""
    starts = np.stack([np.arange(len(before)), np.ones(len(before))], axis=-1)
    ends = np.stack([destination, np.zeros(len(before))], axis=-1)
    lines = LineCollection(
        list(np.stack([starts, ends], axis=1)),
        array=before,
        cmap="cividis",
        linewidths=float(np.clip(60 / len(before), 0.4, 1.8)),
    )
    ax.add_collection(lines)
    size = float(np.clip(900 / len(before), 1, 30))
    for x, y in (starts.T, ends.T):
        ax.scatter(x, y, s=size, c=before, cmap="cividis")
    ax.set_xlabel("place in the weight vector")
    ax.set_yticks([1, 0], ["before", "after"])
    ax.set_ylim(-0.1, 1.1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.figure.colorbar(lines, ax=ax, label="weight")
    return ax


def _draw_arrows(after: np.ndarray, destination: np.ndarray, ax: Axes) -> Axes:
    """Draw arrows over an image, from where each value that moved was to where it is."""
    image = ax.imshow(after, cmap="cividis", interpolation="nearest", aspect="auto")
    for source, target in enumerate(destination.flat):
        if source != target:
            # Places as (x, y); the bend keeps arrows within one column from covering each other.
            start, end = (divmod(place, after.shape[1])[::-1] for place in (source, target))
            arrow = FancyArrowPatch(
                start,
                end,
                connectionstyle="arc3,rad=0.25",
                arrowstyle="-|>",
                mutation_scale=8,
                shrinkA=0,
                shrinkB=0,
                color=sns.color_palette("colorblind")[3],
            )
            ax.add_patch(arrow)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="column", ylabel="row")
    ax.figure.colorbar(image, ax=ax, label="weight")
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
