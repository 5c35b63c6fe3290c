"""Weight profiles: the weight vectors of a layer, each sorted, on one axis.

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 2 (weight profiles).
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from laperm_lib import weight_vectors
from laperm_lib.paper.plotting._common import evenly_spaced, finite, new_axes

_MAX_LINES = 256
_MAX_POINTS = 512
_BANDS = ((0.0, 1.0), (0.05, 0.95), (0.25, 0.75))
_GRID_COLUMNS = 4
_PANEL_INCHES = (3.2, 2.6)


def vector_profile(matrix: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw weight vectors on one axis: weight against rank, every vector sorted.

    Up to 256 vectors are one line each. More would hide each other, so the median over the vectors
    and the bands that hold the middle 50 %, 90 % and 100 % of them are drawn at each rank. Vectors
    of more than 512 weights are drawn at 512 evenly spaced ranks.

    Args:
        matrix: one weight vector per row, shape (vectors, d).
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. x is the relative rank in [0, 1], y the weight.

    Raises:
        ValueError: if `matrix` is not a matrix or is empty.
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> ax = vector_profile(np.array([[0.3, -0.1, 0.2], [0.0, 0.4, -0.2]]))
        >>> len(ax.collections[0].get_segments())
        2
    """
    vectors = finite(np.asarray(matrix), "The matrix of weight vectors")
    if vectors.ndim != 2:
        raise ValueError(f"Expected one weight vector per row, got shape {vectors.shape}.")
    return _draw(np.sort(vectors, axis=1), "rank", ax or new_axes())


def weight_profile(
    model_or_layer: keras.Layer, *, as_stored: bool = False, exclude: str | Iterable[str] = ()
) -> Figure:
    """Draw the weight profile of a layer, or of every layer of a model in a grid.

    Each panel shows the weight vectors of one kernel as `vector_profile` does. Where the lines lie
    on each other, the layer has similar weight profiles (SoWP). Frozen kernels are drawn too;
    variables of layers that `laperm_lib.weight_vectors` does not know are not.

    Args:
        model_or_layer: a built Keras model or layer.
        as_stored: also draw, to the left of each panel, the weights in the order in which they are
            stored. Default: the sorted view alone.
        exclude: regular expressions; kernels whose path contains one are left out. Default: none.

    Returns:
        The figure, a grid of up to four panels a row, or with `as_stored` a row per kernel.

    Raises:
        ValueError: if there is no kernel, or the model is not built.
        UnknownLayerError: if there is no kernel and variables of unknown layers.
        NonFiniteWeightError: if a weight is NaN or infinite; the message names the kernel.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
        >>> [ax.get_title() for ax in weight_profile(model).axes]
        ['d/kernel: 3 × 4']
    """
    found = weight_vectors.kernels(model_or_layer, exclude, frozen=True).values()
    # A list: the layers inside several attention layers have the same names.
    matrices = [(vectors.path, finite(vectors.matrix(), f"'{vectors.path}'")) for vectors in found]

    columns = 2 if as_stored else min(_GRID_COLUMNS, len(found))
    rows = len(found) if as_stored else math.ceil(len(found) / columns)
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows)
    how: Any = {"figsize": size, "sharey": "row" if as_stored else "none", "layout": "constrained"}
    figure, grid = plt.subplots(rows, columns, squeeze=False, **how)
    panels = iter(grid.flat)
    for path, matrix in matrices:
        title = f"{path}: {len(matrix)} × {matrix.shape[1]}"
        if as_stored:
            _draw(matrix, "place", next(panels)).set_title(f"{title}, as stored", fontsize="medium")
            title += ", sorted"
        _draw(np.sort(matrix, axis=1), "rank", next(panels)).set_title(title, fontsize="medium")
    for unused in panels:
        unused.remove()
    return figure


def _draw(vectors: np.ndarray, position: str, ax: Axes) -> Axes:
    """Draw the rows as lines, or as quantile bands if there are many."""
    if vectors.shape[1] == 1:  # one weight is a profile too: a level line
        vectors = np.repeat(vectors, 2, axis=1)
    count, d = vectors.shape
    places = evenly_spaced(d, _MAX_POINTS)
    x, y = places / (d - 1), vectors[:, places]

    colour = sns.color_palette("colorblind")[0]
    if count <= _MAX_LINES:
        lines = list(np.stack([np.broadcast_to(x, y.shape), y], axis=-1))
        alpha = float(np.clip(10 / count, 0.15, 1.0))
        ax.add_collection(LineCollection(lines, colors=[colour], linewidths=0.8, alpha=alpha))
        ax.autoscale_view()
    else:
        for low, high in np.quantile(y, _BANDS, axis=0).reshape(len(_BANDS), 2, -1):
            ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(x, np.median(y, axis=0), color=colour, linewidth=1.2)
    ax.set(xlabel=f"{position} / (d − 1)", ylabel="weight")
    return ax
