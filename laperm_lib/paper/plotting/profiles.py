"""Weight profiles: the weight vectors of a layer, each sorted, on one axis.

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 2 (weight profiles).
"""

import math
from collections.abc import Iterable

import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from laperm_lib import weight_vectors
from laperm_lib.paper.plotting.canvas import axes, evenly_spaced, finite

MAX_LINES = 256
"""Up to this many weight vectors are drawn one by one, more as quantile bands."""

MAX_POINTS = 512
"""Longer weight vectors are drawn at this many evenly spaced places, both ends among them."""

_BANDS = ((0.0, 1.0), (0.05, 0.95), (0.25, 0.75))
_GRID_COLUMNS = 4
_PANEL_INCHES = (3.2, 2.6)


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
    vectors = finite(np.asarray(matrix), "The matrix of weight vectors")
    if vectors.ndim != 2:
        raise ValueError(f"Expected one weight vector per row, got shape {vectors.shape}.")
    if not presorted:
        vectors = np.sort(vectors, axis=1)
    return _draw_vectors(vectors, presorted, axes(ax))


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
        ValueError: if there is no such kind or no variable of it, or the model is not built.
        NonFiniteWeightError: if a weight is NaN or infinite; the message names the variable.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
        >>> [ax.get_title() for ax in weight_profile(model).axes]
        ['d/kernel: 3 × 4']

    References:
        Qiu and Suda, NeurIPS 2020, section 2.
    """
    wanted = weight_vectors.check_kinds(kinds)
    found = weight_vectors.of(model_or_layer, kinds=wanted)
    if not found:
        raise ValueError(f"'{model_or_layer.name}' has no trainable {' or '.join(wanted)} to draw.")
    matrices = [finite(vectors.matrix(), f"'{vectors.path}'") for vectors in found]

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
            view = (", as stored" if stored else ", sorted") if presorted else ""
            neurons, d = matrix.shape
            ax.set_title(f"{vectors.path}: {neurons} × {d}{view}", fontsize="medium")
    for unused in panels:
        unused.remove()
    return figure


def _draw_vectors(vectors: np.ndarray, presorted: bool, ax: Axes) -> Axes:
    """Draw the rows as lines, or as quantile bands if there are many."""
    count, d = vectors.shape
    # One weight is a profile too: a level line.
    places = evenly_spaced(d, MAX_POINTS)
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
