r"""Moves of single weights that a gradient-free search tries: additions and exchanges.

All moves of a variable are drawn in advance, weight vector by weight vector, from its present
values: no weight is visited twice, so no accepted move changes a later one.

`additions` is RSO's move (arXiv:2005.05955): a weight :math:`w` may become :math:`w + \Delta` or
:math:`w - \Delta`, with :math:`\Delta \sim N(0, \sigma)`. `exchanges`, this project's, lets two
weights of a weight vector change places, so that it stays a permutation of its initial values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from laperm_lib.permutation import to_matrix


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves of one weight vector, in the order in which they are tried.

    An addition changes one weight and has two alternatives, an exchange changes two and has one.
    """

    places: np.ndarray  # indices into the flattened variable, shape (moves, weights)
    values: np.ndarray  # instead of the present ones, shape (moves, alternatives, weights)


Kind = Literal["addition", "exchange"]
Draw = Callable[[np.ndarray, tuple[int, ...], float, np.random.Generator], list[Moves]]


def additions(
    weights: np.ndarray, neuron_axes: tuple[int, ...], sigma: float, generator: np.random.Generator
) -> list[Moves]:
    r"""For each weight :math:`w + \Delta` and :math:`w - \Delta`, in this order."""
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

    The pairs are neighbours in the order of :math:`w + \xi`, :math:`\xi \sim N(0, \sigma)`, so
    their values lie about :math:`\sigma` apart. Two equal weights have nothing to exchange.
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


def _places(shape: tuple[int, ...], neuron_axes: tuple[int, ...]) -> np.ndarray:
    """Indices into the flattened variable, one weight vector per row."""
    return to_matrix(np.arange(int(np.prod(shape))).reshape(shape), neuron_axes)
