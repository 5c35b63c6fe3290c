r"""Moves of single weights that a gradient-free search tries: additions and exchanges.

A search goes through the weights of a variable, weight vector by weight vector, and for each tries
something else. What it tries is drawn beforehand, from the values that the variable has then: no
weight is visited twice, so nothing that is accepted on the way changes a move still to come.

`additions` is RSO's move: a weight :math:`w` may become :math:`w + \Delta` or :math:`w - \Delta`,
with :math:`\Delta \sim N(0, \sigma)`. `exchanges` lets two weights of one weight vector change
places, so that the vector stays a permutation of what it was.

References:
    Tripathi and Singh, "RSO: A Gradient Free Sampling Based Approach For Training Deep Neural
    Networks", 2020, arXiv:2005.05955 (additions; the exchanges are this project's).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from laperm_lib.permutation import to_matrix


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves of one weight vector, in the order in which they are tried.

    Args:
        places: the weights of each move, as indices into the flattened variable, shape (moves,
            weights); 1 weight is changed by an addition, 2 by an exchange.
        values: the values that they may take instead, shape (moves, alternatives, weights); an
            addition has 2 alternatives, an exchange 1.
    """

    places: np.ndarray
    values: np.ndarray


Kind = Literal["addition", "exchange"]
Draw = Callable[[np.ndarray, tuple[int, ...], float, np.random.Generator], list[Moves]]


def additions(
    weights: np.ndarray, neuron_axes: tuple[int, ...], sigma: float, generator: np.random.Generator
) -> list[Moves]:
    r"""For each weight :math:`w + \Delta` and :math:`w - \Delta`, in this order.

    Args:
        weights: the values of a variable, floats of any shape.
        neuron_axes: which of its axes run over neurons, as `laperm_lib.weight_vectors` says.
        sigma: the standard deviation of :math:`\Delta`, at least 0.
        generator: for the random numbers, one for each weight.

    Returns:
        The moves of each weight vector, as many as it has weights.

    Examples:
        >>> [moves] = additions(np.ones((2, 1)), (-1,), 0.1, np.random.default_rng(0))
        >>> moves.places.tolist()
        [[0], [1]]
        >>> bool(np.allclose(moves.values.mean(axis=1), 1))
        True
    """
    flat = weights.ravel()
    places = _places(weights.shape, neuron_axes)
    deltas = sigma * generator.standard_normal(places.shape)
    return [
        Moves(row[:, None], np.stack([flat[row] + delta, flat[row] - delta], axis=1)[..., None])
        for row, delta in zip(places, deltas.astype(flat.dtype), strict=True)
    ]


def exchanges(
    weights: np.ndarray, neuron_axes: tuple[int, ...], sigma: float, generator: np.random.Generator
) -> list[Moves]:
    r"""Pairs of weights of one vector, which may take each other's value.

    A weight is in one pair at most. The pairs are neighbours in the order of :math:`w + \xi`,
    :math:`\xi \sim N(0, \sigma)`, so their values lie about :math:`\sigma` apart: with a large
    :math:`\sigma` any two weights may meet, with a small one only those nearly alike. Two equal
    weights have nothing to exchange.

    Args:
        weights: as for `additions`.
        neuron_axes: as for `additions`.
        sigma: how far apart the values of a pair are, roughly; at least 0.
        generator: as for `additions`.

    Returns:
        The moves of each weight vector, at most half as many as it has weights.

    Examples:
        >>> weights = np.array([[3.0], [0.0], [2.0], [1.0]])
        >>> [moves] = exchanges(weights, (-1,), 0.0, np.random.default_rng(0))
        >>> moves.places.tolist(), moves.values.tolist()
        ([[1, 3], [2, 0]], [[[1.0, 0.0]], [[3.0, 2.0]]])
    """
    flat = weights.ravel()
    places = _places(weights.shape, neuron_axes)
    noise = sigma * generator.standard_normal(places.shape)
    found = []
    for row, xi in zip(places, noise, strict=True):
        order = row[np.argsort(flat[row] + xi, kind="stable")]
        pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
        pairs = pairs[flat[pairs[:, 0]] != flat[pairs[:, 1]]]
        found.append(Moves(pairs, flat[pairs[:, None, ::-1]]))
    return found


KINDS: dict[Kind, Draw] = {"addition": additions, "exchange": exchanges}
"""The moves by name."""


def _places(shape: tuple[int, ...], neuron_axes: tuple[int, ...]) -> np.ndarray:
    """Indices into the flattened variable, one weight vector per row."""
    return to_matrix(np.arange(int(np.prod(shape))).reshape(shape), neuron_axes)
