"""Single steps, drawn in detail: a synchronisation of LaPerm, a step of SGPerm, any permutation.

`synchronisation_steps` and `cycle_search` follow one short weight vector that can be checked by
hand; `permutation_trace` shows where each value of an array went.

References:
    Qiu and Suda, "Train-by-Reconnect: Decoupling Locations of Weights from Their Values",
    NeurIPS 2020, section 3 (the equation of synchronisation).
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (the analogy of the puzzle).
"""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from laperm_lib.cycles.reference import Graph, permute, search_parts
from laperm_lib.paper.plotting._common import finite, new_axes
from laperm_lib.permutation import is_permutation, reconnect, sort_order, sort_values

_MOST_WEIGHTS = 16  # more cannot be followed
_CYCLE_TITLES = (
    "1. Recommendation: a tab above wants more, below less",
    "2. Graph: the pieces that a slot may take",
    "3. Cycles: whose piece goes where",
    "4. Permutation",
)
_LINES = ("-", "--", "-.", ":")
_PIECE, _GHOST = 190, 70  # areas of markers, in square points


def synchronisation_steps(initial: np.ndarray, trained: np.ndarray) -> Figure:
    r"""Draw what a synchronisation does to one weight vector, in four panels.

    They show the initial values :math:`w_0`; the weights :math:`w` after some steps of the inner
    optimizer, each with its rank; :math:`\operatorname{sort}(w_0)` above the places
    :math:`\operatorname{argsort}(w)` that its values go to; and the synchronised weights. A colour
    is one initial value throughout, and the weight of that rank in :math:`w`.

    Args:
        initial: the initial values, shape (d,), at most 16 of them.
        trained: the weights after some steps of the inner optimizer, shape (d,).

    Returns:
        The figure.

    Raises:
        ValueError: if the shapes differ, or there are no weights or too many to follow.
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> figure = synchronisation_steps(np.array([0.3, -0.1, 0.2]), np.array([0.1, 0.5, 0.4]))
        >>> [float(bar.get_height()) for bar in figure.axes[3].patches]
        [-0.1, 0.3, 0.2]
    """
    initial, trained = np.asarray(initial), np.asarray(trained)
    _check_vectors(initial=initial, trained=trained)
    if len(initial) > _MOST_WEIGHTS:
        raise ValueError(f"{len(initial)} weights are too many to follow: {_MOST_WEIGHTS} at most.")
    order, values = sort_order(trained), sort_values(initial)
    ranks = np.argsort(order)
    colours = np.array(sns.color_palette("cividis", len(initial)))
    figure, grid = plt.subplots(2, 2, figsize=(9, 6), sharey=True, layout="constrained")
    start, moved, given_out, synchronised = grid.flat
    _draw_bars(start, initial, colours[np.argsort(sort_order(initial))])
    start.set(title="1. the initial values $w_0$", xlabel="place", ylabel="weight")
    _draw_bars(moved, trained, colours[ranks], below=ranks)
    moved.set(title="2. the inner optimizer has made $w$", xlabel="place, and below it the rank")
    _draw_bars(given_out, values, colours, below=order)
    given_out.set(title="3. sort($w_0$), given out by argsort($w$)", ylabel="weight")
    given_out.set_xlabel("rank, and below it the place that gets the value")
    _draw_bars(synchronised, reconnect(trained, values), colours[ranks])
    synchronised.set(title="4. synchronised", xlabel="place")
    return figure


def permutation_trace(before: np.ndarray, after: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw an arrow from where each value was to where it is.

    A vector is drawn as two rows, the places before above those after, and a line for each value.
    A two-dimensional array, taken as one weight vector, is drawn as the image of `after` with an
    arrow for each value that moved. Both are readable up to some hundred values. Equal values keep
    their order.

    Args:
        before: the values at first, shape (d,) or (rows, columns).
        after: the same values, rearranged; same shape and dtype.
        ax: where to draw. Default: new axes in a new figure.

    Returns:
        The axes. Lines, image and arrows share one colour scale, the value.

    Raises:
        ValueError: if the arrays are not one- or two-dimensional, or `after` is not bit for bit a
            permutation of `before`.
        NonFiniteWeightError: if a value is NaN or infinite.

    Examples:
        >>> ax = permutation_trace(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.1, 0.2]))
        >>> [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
        [[0.0, 1.0], [1.0, 2.0], [2.0, 0.0]]
    """
    before, after = finite(np.asarray(before), "'before'"), np.asarray(after)
    if before.ndim not in (1, 2):
        raise ValueError(f"Expected one or two dimensions, got shape {before.shape}.")
    if before.shape != after.shape or not is_permutation(before.ravel(), after.ravel()):
        raise ValueError("'after' is not a permutation of 'before', bit for bit.")

    # The value of rank r was at source[r] and is at target[r].
    source, target = (sort_order(values.astype(float).ravel()) for values in (before, after))
    destination = np.empty_like(source)
    destination[source] = target
    draw = _draw_lines if before.ndim == 1 else _draw_arrows
    return draw(ax or new_axes(), after, destination)


def cycle_search(
    weights: np.ndarray,
    recommendation: np.ndarray,
    places: np.ndarray,
    *,
    size: int,
    alpha: float,
    initial_range: float,
) -> Figure:
    """Draw a step of SGPerm for one weight vector, readable for up to some twenty weights.

    A weight is a piece, drawn above its slot (its place) at the height of its value. So a piece
    that changes slots moves sideways, and a slot that wants more looks for a piece that lies
    higher. Every other part has a shade behind its slots.

    Args:
        weights: the weight vector, shape (d,).
        recommendation: what each place wants, as `laperm_lib.cycles.reference.recommend` gives
            it, shape (d,).
        places: 0 to d - 1 in random order; each `size` of them in turn make a part.
        size: the size of a part, at least 1.
        alpha: the aggressiveness, at least 0.
        initial_range: the range of the initial weights, max - min.

    Returns:
        The figure, one panel for each of the four steps.

    Raises:
        ValueError: if the arrays are not vectors of one length, or `places` is not a permutation.
        NonFiniteWeightError: if a weight or recommendation is NaN or infinite.

    Examples:
        >>> weights, wishes = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-1.0, -2.0, 3.0, 0.0])
        >>> figure = cycle_search(
        ...     weights, wishes, np.arange(4), size=4, alpha=0.5, initial_range=0.3
        ... )
        >>> [ax.get_title()[0] for ax in figure.axes[:4]]
        ['1', '2', '3', '4']
    """
    weights, recommendation = np.asarray(weights, float), np.asarray(recommendation, float)
    places = np.asarray(places)
    _check_vectors(weights=weights, recommendation=recommendation, places=places)
    if not np.array_equal(np.sort(places), np.arange(len(weights))):
        raise ValueError(f"places is not a permutation of 0 to {len(weights) - 1}.")

    how: Any = {"size": size, "alpha": alpha, "spread": initial_range}
    parts, graphs, found = zip(*search_parts(weights, recommendation, places, **how), strict=True)
    cycles = list(itertools.chain(*found))
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7), sharex=True, sharey=True, layout="constrained"
    )
    for ax, title in zip(axes.flat, _CYCLE_TITLES, strict=True):
        ax.set_title(title, fontsize="medium")
        ax.margins(y=0.12)
        ax.set_xlim(-0.7, len(weights) - 0.3)
        for slot in itertools.chain(*parts[1::2]):
            ax.axvspan(slot - 0.5, slot + 0.5, color="0.93", zorder=0)
    first, second, third, fourth = axes.flat
    _draw_wishes(first, weights, recommendation)
    _draw_candidates(second, weights, graphs)
    _draw_cycles(third, weights, cycles)
    for ax in (first, second, third):
        _draw_pieces(ax, weights, recommendation)
    pieces = _draw_pieces(fourth, permute(weights, cycles), np.zeros(len(weights)))
    for ax in axes[1]:
        ax.set_xlabel("slot (place in the weight vector)")
        ax.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    for ax in axes[:, 0]:
        ax.set_ylabel("weight")
    figure.colorbar(pieces, ax=list(axes.flat), label="weight", fraction=0.03)
    return figure


def _check_vectors(**arrays: np.ndarray) -> None:
    """Refuse what is not a vector, differs in length, is empty or not finite."""
    shapes = [array.shape for array in arrays.values()]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        names, found = " and ".join(arrays), " and ".join(map(str, shapes))
        raise ValueError(f"Expected vectors of one length for {names}, got shapes {found}.")
    for name, array in arrays.items():
        finite(array, f"'{name}'")


def _draw_bars(
    ax: Axes, heights: np.ndarray, colours: np.ndarray, below: np.ndarray | None = None
) -> None:
    """Draw a bar for each place, numbered, and below its number another one."""
    places = np.arange(len(heights))
    bars = ax.bar(places, heights, color=colours)
    ax.bar_label(bars, fmt="%.2f", fontsize="small", padding=1)
    ax.axhline(0, color="0.35", linewidth=0.8)
    ax.margins(y=0.12)
    ax.set_xticks(places, places if below is None else map("{}\n{}".format, places, below))


def _draw_lines(ax: Axes, after: np.ndarray, destination: np.ndarray) -> Axes:
    """Link the places of a vector, drawn above, to the places their values went to."""
    d, values = len(after), after[destination]
    starts = np.stack([np.arange(d), np.ones(d)], axis=-1)
    ends = np.stack([destination, np.zeros(d)], axis=-1)
    segments = list(np.stack([starts, ends], axis=1))
    width = float(np.clip(60 / d, 0.4, 1.8))
    lines = LineCollection(segments, array=values, cmap="cividis", linewidths=width)
    ax.add_collection(lines)
    for x, y in (starts.T, ends.T):
        ax.scatter(x, y, s=float(np.clip(900 / d, 1, 30)), c=values, cmap="cividis")
    ax.set_xlabel("place in the weight vector")
    ax.set_yticks([1, 0], ["before", "after"])
    ax.set_ylim(-0.1, 1.1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.figure.colorbar(lines, ax=ax, label="weight")
    return ax


def _draw_arrows(ax: Axes, after: np.ndarray, destination: np.ndarray) -> Axes:
    """Draw arrows over an image, from where each value that moved was to where it is."""
    image = ax.imshow(after, cmap="cividis", interpolation="nearest", aspect="auto")
    look: Any = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    # The bend keeps arrows within one column from covering each other.
    look |= {"connectionstyle": "arc3,rad=0.25", "color": sns.color_palette("colorblind")[3]}
    for places in enumerate(destination):
        start, end = (divmod(place, after.shape[1])[::-1] for place in places)  # as (x, y)
        if start != end:
            ax.add_patch(FancyArrowPatch(start, end, **look))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="column", ylabel="row")
    ax.figure.colorbar(image, ax=ax, label="weight")
    return ax


def _piece(tab: int) -> tuple[MarkerStyle, float]:
    """A square with a round tab above (1), below (-1) or none (0), and its area as a marker."""
    if tab == 0:
        return MarkerStyle("s"), _PIECE
    angles = np.radians(np.linspace(-50, 230, 30))
    knob = np.stack([0.45 * np.cos(angles), 1.35 + 0.45 * np.sin(angles)], axis=-1)
    outline = np.array([(-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), *knob, (-1.0, 1.0)])
    # Matplotlib scales a marker to its largest extent, here 1.8 instead of 1.
    return MarkerStyle(Path(outline * [1, tab], closed=True)), _PIECE * 1.8**2


def _draw_pieces(ax: Axes, now: np.ndarray, recommendation: np.ndarray) -> PathCollection:
    """Draw the pieces in their slots, coloured by weight; returns one collection of them."""
    for tab in (-1, 0, 1):
        slots = np.flatnonzero(-np.sign(recommendation) == tab)
        marker, area = _piece(tab)
        pieces = ax.scatter(
            slots, now[slots], s=area, c=now[slots], marker=marker, cmap="cividis", zorder=3,
            vmin=now.min(), vmax=now.max(), edgecolors="0.2", linewidths=0.7,
        )  # fmt: skip
    for slot, weight in enumerate(now):
        colour = "white" if weight < (now.min() + now.max()) / 2 else "black"
        look: Any = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
        ax.annotate(f"{weight:.3g}", (slot, weight), **look)
    return pieces


def _draw_wishes(ax: Axes, weights: np.ndarray, recommendation: np.ndarray) -> None:
    """Draw an arrow for what each slot wants, proportional to how much."""
    longest = 0.3 * np.ptp(weights) / max(np.abs(recommendation).max(), np.finfo(float).tiny)
    for slot in np.flatnonzero(recommendation):
        start = (slot, weights[slot])
        end = (slot, weights[slot] - longest * recommendation[slot])
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.35"})


def _draw_candidates(ax: Axes, weights: np.ndarray, graphs: tuple[Graph, ...]) -> None:
    """Draw, above and below each slot, the pieces that it may take."""
    pairs = [(i, j) for graph in graphs for i, targets in graph.items() for j in targets]
    slots, sources = np.array(pairs, int).reshape(-1, 2).T
    ax.scatter(
        slots, weights[sources], s=_GHOST, c=weights[sources], marker="s", cmap="cividis",
        vmin=weights.min(), vmax=weights.max(), alpha=0.6, linewidths=0, zorder=2,
    )  # fmt: skip


def _draw_cycles(ax: Axes, weights: np.ndarray, cycles: list[list[int]]) -> None:
    """Draw each cycle as a loop: sideways with a piece to its new slot, then to the piece there."""
    colours, lines = itertools.cycle(sns.color_palette("colorblind")), itertools.cycle(_LINES)
    for cycle, colour, line in zip(cycles, colours, lines, strict=False):
        for here, ahead in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            # The piece of `ahead` goes to `here`.
            arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.6}
            ax.annotate("", (here, weights[ahead]), (ahead, weights[ahead]), arrowprops=arrow)
            ax.plot([here, here], [weights[here], weights[ahead]], color=colour, lw=1, ls=":")
