"""One synchronisation, step by step, of a weight vector that can be followed by hand."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laperm_lib.paper.plotting.canvas import finite
from laperm_lib.permutation import reconnect, sort_order, sort_values

MOST_WEIGHTS = 16
"""More cannot be followed."""


def synchronisation_steps(initial: np.ndarray, trained: np.ndarray) -> Figure:
    r"""Draw what a synchronisation does to one weight vector, in four panels.

    They show the initial values :math:`w_0`; the weights :math:`w` that the inner optimizer has
    made of them, each with its rank; :math:`\operatorname{sort}(w_0)` above the places
    :math:`\operatorname{argsort}(w)` that its values go to; and the synchronised weights. A colour
    is one initial value throughout, and the weight of that rank in :math:`w`.

    Args:
        initial: the initial values, shape (d,), from 1 to `MOST_WEIGHTS` of them.
        trained: the weights after some steps of the inner optimizer, shape (d,).

    Returns:
        The figure.

    Raises:
        ValueError: if the shapes are others, or there are too many weights to be followed.
        NonFiniteWeightError: if a weight is NaN or infinite.

    Examples:
        >>> figure = synchronisation_steps(np.array([0.3, -0.1, 0.2]), np.array([0.1, 0.5, 0.4]))
        >>> [float(bar.get_height()) for bar in figure.axes[3].patches]
        [-0.1, 0.3, 0.2]

    References:
        Qiu and Suda, NeurIPS 2020, section 3 (the equation of synchronisation).
    """
    initial, trained = np.asarray(initial), np.asarray(trained)
    if initial.ndim != 1 or initial.shape != trained.shape:
        raise ValueError(
            f"Expected two vectors of one length, got shapes {initial.shape} and {trained.shape}."
        )
    if len(initial) > MOST_WEIGHTS:
        raise ValueError(f"{len(initial)} weights cannot be followed, {MOST_WEIGHTS} can.")
    finite(initial, "The initial vector")
    finite(trained, "The trained vector")

    order, values = sort_order(trained), sort_values(initial)
    places, ranks = np.arange(len(initial)), np.argsort(order)
    colours = np.array(sns.color_palette("cividis", len(initial)))
    figure, grid = plt.subplots(2, 2, figsize=(9, 6), sharey=True, layout="constrained")
    start, moved, given_out, synchronised = grid.flat
    _bars(start, initial, colours[np.argsort(sort_order(initial))])
    start.set(title="1. the initial values $w_0$", xlabel="place", ylabel="weight")
    start.set_xticks(places)
    _bars(moved, trained, colours[ranks])
    moved.set(title="2. the inner optimizer has made $w$", xlabel="place, and below it the rank")
    moved.set_xticks(places, [f"{place}\n{rank}" for place, rank in enumerate(ranks)])
    _bars(given_out, values, colours)
    given_out.set(title="3. sort($w_0$), given out by argsort($w$)", ylabel="weight")
    given_out.set_xlabel("rank, and below it the place that gets the value")
    given_out.set_xticks(places, [f"{rank}\n{place}" for rank, place in enumerate(order)])
    _bars(synchronised, reconnect(trained, values), colours[ranks])
    synchronised.set(title="4. synchronised", xlabel="place")
    synchronised.set_xticks(places)
    return figure


def _bars(ax: Axes, heights: np.ndarray, colours: np.ndarray) -> None:
    bars = ax.bar(np.arange(len(heights)), heights, color=colours)
    ax.bar_label(bars, fmt="%.2f", fontsize="small", padding=1)
    ax.axhline(0, color="0.35", linewidth=0.8)
    ax.margins(y=0.12)
