"""Permutation traces: where each value of a weight vector went."""

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from laperm_lib.paper.plotting.canvas import axes
from laperm_lib.permutation import from_matrix, is_permutation, sort_order, to_matrix


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
        return _draw_lines(before, destination, axes(ax))
    return _draw_arrows(after, destination, axes(ax))


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
