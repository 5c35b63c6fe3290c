r"""RSO: train without gradients, one weight at a time.

Each weight is tried with a random number added and with the same number subtracted, on one
mini-batch, and the best of the three networks is kept. RSO visits all weights of the network in
this way, layer by layer from the last to the first, again and again, with ever smaller additions.
With exchanges instead of additions this is the gradient-free LaPerm: two weights of a weight vector
change places if the loss falls, so the network always is a permutation of its initial weights.

A `keras.optimizers.Optimizer` is given gradients, so RSO is none and has its own `fit`. In
`laperm_lib.local_search`, `moves` says what is tried, and `losses` how good it is.

References:
    Tripathi and Singh, "RSO: A Gradient Free Sampling Based Approach For Training Deep Neural
    Networks", 2020, arXiv:2005.05955.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from laperm_lib import batch_statistics
from laperm_lib._arguments import check_bool, check_integer, check_number
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.batches import Batches
from laperm_lib.local_search import moves
from laperm_lib.local_search.losses import Losses, RecomputedLosses, check_samples, kind_of_losses
from laperm_lib.optimizers.selection import Selection
from laperm_lib.weight_vectors import WeightVectors

_ROUNDING = 16
"""A loss must be lower by so many units of its rounding. Otherwise rounding errors would decide on
moves that change nothing, as of a bias before batch normalisation."""


@dataclass(frozen=True)
class Cycle:
    """What happened while all weights were visited once.

    Args:
        number: of the cycle, from 1.
        loss: on the last mini-batch, after its last move.
        updates: weights that were visited; an exchange visits two.
        changed: weights that were given another value.
        candidates: networks whose loss was measured, besides those that the moves started from.
    """

    number: int
    loss: float
    updates: int
    changed: int
    candidates: int


class RSO:
    r"""Trains a classifier by moves of single weights that lower the loss, without gradients.

    In cycle c of C, counted from 0, every weight is visited once, in the order of its variable's
    weight vectors, the variables from the last to the first. A weight :math:`w` becomes whichever
    of

    .. math:: w, \quad w + \Delta, \quad w - \Delta, \qquad \Delta \sim N(0, \sigma_c),

    gives the lowest mean cross-entropy on the mini-batch. :math:`\sigma_c` falls linearly from the
    standard deviation of the layer's initial kernel to the share `last_scale` of it,

    .. math:: \sigma_c = \sigma_0 \Bigl(1 - (1 - s) \frac{c}{C - 1}\Bigr) .

    This project's choices are how it falls, that each variable has a new mini-batch in each cycle,
    and that a normalisation parameter has the :math:`\sigma_0` of its own variable.

    With `move="exchange"`, pairs of weights of one weight vector, their values about
    :math:`\sigma_c` apart, change places if this lowers the loss, each weight at most once a cycle.
    Every weight vector always is, bit for bit, a permutation of its initial values.

    During the search, batch normalisation uses the statistics of the mini-batch. After each cycle
    its moving averages are set to those of the last mini-batch.

    For a chain of common layers the losses come from a cache of all that a move does not touch; for
    any other network Keras recomputes them, far more slowly, and the log says why (level INFO).

    Args:
        cycles: how often each weight is visited, C. Default 50.
        batch_size: samples in a mini-batch, or all if there are fewer. Default 5000. Samples left
            over at the end of the data wait for the next epoch.
        last_scale: s, above 0 and at most 1. Default 0.1.
        move: "addition" (RSO) or "exchange" (the gradient-free LaPerm). Default "addition".
        together: how many moves of one weight vector are measured from the same network. Those
            that lower the loss are then made all at once, or only the best of them if that is
            better. Default 1, the published rule: each move knows of all before it.
        seed: for the moves and the mini-batches, an integer of at least 0. Default 0.
        skip_bias: leave biases as they are. Default False.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, as they are. Default True.
        exclude: regular expressions; a variable is left as it is if one of them is found in its
            `path`, such as "sequential/dense/kernel". Default: none.
        cached: whether losses may come from the cache. Default True.

    Raises:
        ValueError: for an argument outside its range.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 0])
        >>> history = RSO(cycles=3).fit(model, x, y)
        >>> [cycle.updates for cycle in history], history[2].loss < history[0].loss
        ([15, 15, 15], True)
    """

    def __init__(
        self,
        *,
        cycles: int = 50,
        batch_size: int = 5000,
        last_scale: float = 0.1,
        move: moves.Kind = "addition",
        together: int = 1,
        seed: int = 0,
        skip_bias: bool = False,
        skip_batch_norm: bool = True,
        exclude: Iterable[str] = (),
        cached: bool = True,
    ) -> None:
        if move not in moves.KINDS:
            raise ValueError(f"move is one of {', '.join(moves.KINDS)}, got {move!r}.")
        self.cycles = check_integer("cycles", cycles, at_least=1, at_most=2**31 - 1)
        self.batch_size = check_integer("batch_size", batch_size, at_least=1)
        self.last_scale = check_number("last_scale", last_scale, above=0, at_most=1)
        self.move: moves.Kind = move
        self.together = check_integer("together", together, at_least=1)
        self.seed = check_seed(seed)
        self.selection = Selection(
            skip_bias=skip_bias, skip_batch_norm=skip_batch_norm, exclude=exclude
        )
        self.cached = check_bool("cached", cached)

    def fit(
        self, model: keras.Model, x: np.ndarray, y: np.ndarray, *, verbose: int = 0
    ) -> list[Cycle]:
        r"""Train a model for all cycles; what happened in each.

        Args:
            model: built; gives logits, shape (n, classes). It need not be compiled.
            x: inputs, shape (n, ...).
            y: classes, integers of shape (n,) or (n, 1).
            verbose: 1 shows a progress bar, 0 (the default) nothing.

        Raises:
            ValueError: before anything is changed, if the model is not built, no variable is left
                to train, all values of one are equal, so that there is no :math:`\sigma_0`, or `x`
                and `y` do not fit the model. Later, if a loss is not finite.
            UnknownLayerError: if a layer's weight vectors are not known.
        """
        progress = keras.utils.Progbar(self.cycles, verbose=verbose)
        history = []
        for cycle in self.iterate(model, x, y):
            history.append(cycle)
            progress.update(cycle.number, [("loss", cycle.loss)])
        return history

    def iterate(
        self,
        model: keras.Model,
        x: np.ndarray,
        y: np.ndarray,
        *,
        first_cycle: int = 0,
        standard_deviations: Sequence[float] | None = None,
    ) -> Iterator[Cycle]:
        """`fit` cycle by cycle, each trained when its result is asked for.

        To resume as if there had been no interruption, give `first_cycle`, how many cycles the
        model has been through (default 0), and `standard_deviations`, the result of that method
        before the first of them (default: of the present weights). Otherwise as `fit`.
        """
        if check_integer("first_cycle", first_cycle, at_least=0) > self.cycles:
            raise ValueError(f"first_cycle is 0 to {self.cycles}, got {first_cycle}.")
        trained = self.selection.of_model(model)
        if standard_deviations is None:
            standard_deviations = self.standard_deviations(model)
        if len(standard_deviations) != len(trained):
            given = len(standard_deviations)
            raise ValueError(
                f"{len(trained)} variables need as many standard deviations, got {given}."
            )
        x, y = np.asarray(x), np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        check_samples(model, x, y)
        visits = self.cycles * len(trained)
        batches = Batches(  # a remainder is too small for a whole variable
            x, y, batch_size=self.batch_size, epochs=visits, seed=self.seed, drop_remainder=True
        )
        return self._cycles(model, trained, standard_deviations, batches, first_cycle)

    def standard_deviations(self, model: keras.Model) -> list[float]:
        r""":math:`\sigma_0` of each variable that is trained from these weights, in layer order.

        Examples:
            >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="d")])
            >>> model.set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
            >>> RSO().standard_deviations(model)
            [1.0, 1.0]
        """
        found = []
        for vectors in self.selection.of_model(model):
            variable, kernel = vectors.variable, getattr(vectors.layer, "kernel", None)
            source = variable if kernel is None else kernel
            sigma = float(ops.convert_to_numpy(source).astype(np.float64).std())
            if sigma == 0 and self.move == "addition":
                raise ValueError(
                    f"All values of '{source.path}' are equal, so additions to '{variable.path}' "
                    "have no standard deviation to begin with: exclude it."
                )
            found.append(sigma)
        return found

    # -- the algorithm ----------------------------------------------------------------------------

    def _cycles(
        self,
        model: keras.Model,
        trained: list[WeightVectors],
        standard_deviations: Sequence[float],
        batches: Batches,
        first_cycle: int,
    ) -> Iterator[Cycle]:
        kind = kind_of_losses(model) if self.cached else RecomputedLosses
        for cycle in range(first_cycle, self.cycles):
            counts = np.zeros(3, int)
            for visited, number in enumerate(reversed(range(len(trained)))):
                x, y = batches[cycle * len(trained) + visited]
                vectors, variable = trained[number], trained[number].variable
                weights = np.array(ops.convert_to_numpy(variable))
                losses = kind(model, variable, x, y)
                if not math.isfinite(losses.loss):
                    raise ValueError(
                        f"The loss is {losses.loss} before '{variable.path}' is visited."
                    )
                sigma = self._scale(cycle) * standard_deviations[number]
                generator = np.random.Generator(raw_bits(self.seed, f"rso/{number}/{cycle}"))
                found = moves.KINDS[self.move](weights, vectors.neuron_axes, sigma, generator)
                counts += search(losses, weights, found, self.together)
                variable.assign(weights)
            batch_statistics.reestimate(model, [x])
            yield Cycle(cycle + 1, float(losses.loss), *counts.tolist())

    def _scale(self, cycle: int) -> float:
        """sigma_c as a share of sigma_0."""
        if self.cycles == 1:
            return 1.0
        return 1 - (1 - self.last_scale) * cycle / (self.cycles - 1)


def search(
    losses: Losses, weights: np.ndarray, found: Iterable[moves.Moves], together: int
) -> np.ndarray:
    """Make those moves of each weight vector that lower the loss, `together` at a time.

    Writes to `weights`; counts the weights visited, those changed, and the losses measured.
    """
    rounding = _ROUNDING * float(np.finfo(weights.dtype).eps)
    counts = np.zeros(3, int)
    for vector in found:
        for first in range(0, len(vector.places), together):
            part = slice(first, first + together)
            places, values = vector.places[part], vector.values[part]
            tried = np.nan_to_num(losses.of(places, values), nan=np.inf)
            least = tried.min(axis=1)
            better = np.flatnonzero(least < losses.loss * (1 - rounding))
            best = values[better, tried.argmin(axis=1)[better]]
            made = _make(losses, weights, places[better], best, least[better])
            counts += (places.size, made * places.shape[1], tried.size)
    return counts


def _make(
    losses: Losses, weights: np.ndarray, places: np.ndarray, new: np.ndarray, alone: np.ndarray
) -> int:
    """Make moves that each lower the loss, to that of `alone`: all, or the best; how many."""
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
