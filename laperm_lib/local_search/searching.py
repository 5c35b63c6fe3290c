"""Going through the moves of a variable, making those that lower the loss.

`moves` says what is tried, and a `Losses` what comes of it: `cached_losses`
or `recomputed_losses`.

References:
    Tripathi and Singh, "RSO: A Gradient Free Sampling Based Approach For Training Deep Neural
    Networks", 2020, arXiv:2005.05955 (one move at a time).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
from keras import layers

from laperm_lib.local_search.moves import Moves

_ROUNDING = 16
"""A loss is lower than another if the difference exceeds so many units of its rounding. Moves that
change nothing, as a bias before batch normalisation, would else be decided by rounding errors."""


class Losses(Protocol):
    """The loss of a network on one mini-batch, where the weights of one variable change.

    Args:
        loss: the mean loss as the weights are now.
    """

    loss: float

    def of(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The losses with other values; nothing is changed.

        Args:
            places: indices into the flattened variable, shape (moves, weights).
            values: what these weights are instead, shape (moves, alternatives, weights). Each
                alternative of each move is a candidate of its own.

        Returns:
            The mean loss of each candidate, float64, shape (moves, alternatives).
        """

    def keep(self, places: np.ndarray, values: np.ndarray) -> None:
        """Change weights; `loss` becomes that of the changed network.

        Args:
            places: shape (moves, weights).
            values: shape (moves, weights).
        """


@dataclass(frozen=True)
class Counts:
    """What happened on the way through moves.

    Args:
        updates: weights that were visited; an exchange visits two.
        changed: weights that were given another value.
        candidates: networks whose loss was measured, beside those that the moves started from.
    """

    updates: int = 0
    changed: int = 0
    candidates: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.updates + other.updates,
            self.changed + other.changed,
            self.candidates + other.candidates,
        )


def check_samples(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Refuse what are no inputs and classes of a model's, before a loss is computed of them.

    Args:
        model: built; to give logits, shape (n, classes).
        x: to be its inputs, shape (n, ...).
        y: to be classes, integers of shape (n,).

    Raises:
        ValueError: if the model takes or gives something else, or `y` are no such integers.
    """
    wanted = getattr(model, "input_shape", None)  # a subclassed model has none
    if wanted is not None and not _fits(x.shape, wanted):
        raise ValueError(f"Inputs of '{model.name}' have the shape {wanted}, got {x.shape}.")
    last = model.layers[-1] if model.layers else None
    activation = getattr(last, "activation", None)
    if isinstance(last, layers.Softmax) or activation in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    ):
        raise ValueError(f"'{model.name}' gives probabilities; leave out its last activation.")
    shape = getattr(model, "output_shape", None) or tuple(model(x[:1], training=False).shape)
    if len(shape) != 2:
        raise ValueError(f"Logits have the shape (n, classes), those of '{model.name}' {shape}.")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"Classes are integers of shape (n,), got {y.dtype} {y.shape}.")
    if y.size and (y.min() < 0 or y.max() >= shape[1]):
        raise ValueError(f"There are the classes 0 to {shape[1] - 1}, got {y.min()} to {y.max()}.")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether samples have a shape that is given but for their number, and whatever is None."""
    is_as_long = len(shape) == len(wanted)
    pairs = zip(shape[1:], wanted[1:], strict=False)
    return is_as_long and all(size in (None, given) for given, size in pairs)


def search(losses: Losses, weights: np.ndarray, found: Iterable[Moves], together: int) -> Counts:
    """Make those moves that lower the loss, each if it does so where the ones before have led.

    Args:
        losses: of the network whose variable has these weights.
        weights: the values of the variable, written to.
        found: the moves of each weight vector.
        together: how many moves of a weight vector are measured from the same network, at least 1.
            Those that lower the loss are made all at once, or only the best of them where that is
            better.

    Returns:
        What is counted.
    """
    rounding = _ROUNDING * float(np.finfo(weights.dtype).eps)
    counts = Counts()
    for vector in found:
        for first in range(0, len(vector.places), together):
            part = slice(first, first + together)
            places, values = vector.places[part], vector.values[part]
            tried = np.nan_to_num(losses.of(places, values), nan=np.inf)
            least = tried.min(axis=1)
            better = np.flatnonzero(least < losses.loss * (1 - rounding))
            best = values[better, tried.argmin(axis=1)[better]]
            made = _make(losses, weights, places[better], best, least[better])
            counts += Counts(places.size, made * places.shape[1], tried.size)
    return counts


def _make(
    losses: Losses, weights: np.ndarray, places: np.ndarray, new: np.ndarray, alone: np.ndarray
) -> int:
    """Make moves that each lower the loss, to that of `alone`: all, or the best; say how many."""
    if not len(places):
        return 0
    old = weights.flat[places]
    losses.keep(places, new)
    if len(places) > 1 and not losses.loss < alone.min():
        losses.keep(places, old)
        best = [int(np.argmin(alone))]
        places, new = places[best], new[best]
        losses.keep(places, new)
    weights.flat[places] = new
    return len(places)
