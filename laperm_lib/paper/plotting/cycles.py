"""SGPerm's four steps for a handful of weights, drawn as pieces that change slots in a frame.

References:
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (the analogy of the puzzle).
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from laperm_lib.cycles.reference import Graph, permute, search_parts
from laperm_lib.paper.plotting.canvas import finite

_TITLES = (
    "1. Recommendation: a tab above wants more, below less",
    "2. Graph: the pieces that a slot may take",
    "3. Cycles: whose piece goes where",
    "4. Permutation",
)
_PIECE, _GHOST = 190, 70  # areas of markers, in square points
_LINES = ("-", "--", "-.", ":")


def cycle_search(
    weights: np.ndarray,
    recommendation: np.ndarray,
    places: np.ndarray,
    *,
    size: int,
    alpha: float,
    spread: float,
) -> Figure:
    """Draw how a weight vector is rearranged, step by step: readable for up to some twenty weights.

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
        spread: the range of the initial weights.

    Returns:
        The figure, one panel for each of the four steps.

    Raises:
        ValueError: if the three arrays are not vectors of one length, or `places` no permutation.
        NonFiniteWeightError: if a weight or recommendation is NaN or infinite.

    Examples:
        >>> weights, wishes = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-1.0, -2.0, 3.0, 0.0])
        >>> figure = cycle_search(weights, wishes, np.arange(4), size=4, alpha=0.5, spread=0.3)
        >>> [ax.get_title()[0] for ax in figure.axes[:4]]
        ['1', '2', '3', '4']
    """
    weights = finite(np.asarray(weights, float), "The weight vector")
    recommendation = finite(np.asarray(recommendation, float), "The recommendation")
    places = np.asarray(places)
    if weights.ndim != 1 or not weights.shape == recommendation.shape == places.shape:
        raise ValueError(
            f"Expected three vectors of one length, got shapes {weights.shape}, "
            f"{recommendation.shape} and {places.shape}."
        )
    if not np.array_equal(np.sort(places), np.arange(len(weights))):
        raise ValueError(f"places is not a permutation of 0 to {len(weights) - 1}.")

    searched = list(
        search_parts(weights, recommendation, places, size=size, alpha=alpha, spread=spread)
    )
    parts = [part for part, _, _ in searched]
    edges = {place: ahead for _, graph, _ in searched for place, ahead in graph.items()}
    cycles = [cycle for _, _, of_part in searched for cycle in of_part]

    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7), sharex=True, sharey=True, layout="constrained"
    )
    for ax, title in zip(axes.flat, _TITLES, strict=True):
        ax.set_title(title, fontsize="medium")
        ax.margins(y=0.12)
        ax.set_xlim(-0.7, len(weights) - 0.3)
        for number, part in enumerate(parts):
            for slot in part if number % 2 else ():
                ax.axvspan(slot - 0.5, slot + 0.5, color="0.93", zorder=0)
    first, second, third, fourth = axes.flat
    _draw_wishes(first, weights, recommendation)
    _draw_candidates(second, weights, edges)
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
    """Draw the pieces in their slots, coloured by weight; gives one collection of them back."""
    for tab in (-1, 0, 1):
        slots = np.flatnonzero(-np.sign(recommendation) == tab)
        marker, area = _piece(tab)
        pieces = ax.scatter(
            slots, now[slots], s=area, c=now[slots], marker=marker, cmap="cividis", zorder=3,
            vmin=now.min(), vmax=now.max(), edgecolors="0.2", linewidths=0.7,
        )  # fmt: skip
    for slot, weight in enumerate(now):
        dark = weight < (now.min() + now.max()) / 2
        ax.annotate(
            f"{weight:.3g}", (slot, weight), ha="center", va="center", fontsize=7,
            color="white" if dark else "black",
        )  # fmt: skip
    return pieces


def _draw_wishes(ax: Axes, weights: np.ndarray, recommendation: np.ndarray) -> None:
    """Draw an arrow for what each slot wants, as long as it is large."""
    longest = 0.3 * np.ptp(weights) / max(np.abs(recommendation).max(), np.finfo(float).tiny)
    for slot in np.flatnonzero(recommendation):
        start = (slot, weights[slot])
        end = (slot, weights[slot] - longest * recommendation[slot])
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.35"})


def _draw_candidates(ax: Axes, weights: np.ndarray, edges: Graph) -> None:
    """Draw, above and below each slot, the pieces that it may take."""
    pairs = np.array([(i, j) for i, targets in edges.items() for j in targets]).reshape(-1, 2)
    slots, sources = pairs.T.astype(int)
    ax.scatter(
        slots, weights[sources], s=_GHOST, c=weights[sources], marker="s", cmap="cividis",
        vmin=weights.min(), vmax=weights.max(), alpha=0.6, linewidths=0, zorder=2,
    )  # fmt: skip


def _draw_cycles(ax: Axes, weights: np.ndarray, cycles: list[list[int]]) -> None:
    """Draw each cycle as a loop: sideways with a piece to its new slot, then to the piece there."""
    looks = zip(sns.color_palette("colorblind"), itertools.cycle(_LINES), strict=False)
    for cycle, (colour, line) in zip(cycles, itertools.cycle(looks), strict=False):
        for here, ahead in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            # The piece of `ahead` goes to `here`.
            arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.6}
            ax.annotate("", (here, weights[ahead]), (ahead, weights[ahead]), arrowprops=arrow)
            ax.plot([here, here], [weights[here], weights[ahead]], color=colour, lw=1, ls=":")
