r"""RSO: train without gradients, one weight at a time.

Each weight is tried with something added and with the same subtracted, on one mini-batch, and the
best of the three networks goes on. So through all weights of the network, layer by layer from the
last to the first, again and again, with ever smaller additions. With exchanges in the place of
additions this is the gradient-free LaPerm: two weights of a weight vector change places if the loss
falls, so the network is a permutation of its start at every moment.

This is no `keras.optimizers.Optimizer`, for those are given gradients and make one step of them. It
trains a model by itself, by its own `fit`. In `laperm_lib.local_search`, `moves` says what is
tried, and `cached_losses` and `recomputed_losses` what comes of it.

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

from laperm_lib import batch_statistics, local_search
from laperm_lib._arguments import check_integer, check_number
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.batches import Batches
from laperm_lib.local_search import Counts, Losses, moves
from laperm_lib.local_search.cached_losses import CachedLosses
from laperm_lib.local_search.chains import blocks_of
from laperm_lib.local_search.recomputed_losses import RecomputedLosses
from laperm_lib.optimizers.selection import Selection
from laperm_lib.weight_vectors import WeightVectors


@dataclass(frozen=True, kw_only=True)
class Cycle(Counts):
    """What happened while all weights were visited once.

    Args:
        number: of the cycle, from 1.
        loss: on the last mini-batch, after its last move.
        updates, changed, candidates: as `laperm_lib.local_search.Counts` says, of the whole cycle.
    """

    number: int
    loss: float


class RSO:
    r"""Trains a classifier by moves of single weights that lower the loss, without gradients.

    In cycle c of C, counted from 0, every weight is visited once, in the order of its variable's
    weight vectors, the variables from the last to the first. A weight :math:`w` becomes that of

    .. math:: w, \quad w + \Delta, \quad w - \Delta, \qquad \Delta \sim N(0, \sigma_c),

    with which the mean cross-entropy on the mini-batch is lowest. Each variable has a new
    mini-batch in each cycle. :math:`\sigma_c` falls linearly from the standard deviation that the
    kernel of the layer had at the start, to the share `last_scale` of it in the last cycle,

    .. math:: \sigma_c = \sigma_0 \Bigl(1 - (1 - s) \frac{c}{C - 1}\Bigr) .

    How it falls, and when the mini-batch changes, are this project's choices. So is that a bias
    has the :math:`\sigma_0` of its layer's kernel, and a normalisation parameter that of its own
    variable. One cycle is one update per weight.

    With `move="exchange"` pairs of weights of one weight vector are tried the other way round, and
    stay so if the loss is lower. Each weight is in one pair of a cycle at most, with a weight that
    is about :math:`\sigma_c` away in value. Every weight vector is bitwise a permutation of its
    start, always.

    Batch normalisation goes by the statistics of the mini-batch while weights are searched for.
    Behind each cycle its moving averages are set to those of the last mini-batch.

    The losses come from `laperm_lib.local_search.cached_losses`, which knows chains of layers, or
    with `cached=False` from Keras, for any network but far slower. Both decide alike but for
    rounding, and alike to the bit where a network computes in float64 (the tests say so).

    Args:
        cycles: how often each weight is visited, C. Default 50.
        batch_size: samples in a mini-batch, or all if there are fewer. Default 5000. Those that
            are left over when the data have been gone through wait for the next time.
        last_scale: s, above 0 and at most 1. Default 0.1.
        move: "addition" (RSO) or "exchange" (the gradient-free LaPerm). Default "addition".
        together: how many moves of one weight vector are measured from the same network. Those
            that lower the loss are then made all at once, or only the best of them where that is
            better. Default 1, the published rule: each move knows of all before it.
        seed: for the moves and the mini-batches, an integer of at least 0. Default 0.
        skip_bias: leave biases as they are. Default False.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, as they are. Default True.
        exclude: regular expressions; a variable in whose `path`, such as "sequential/dense/kernel",
            one of them is found is left as it is. Default: none.
        cached: whether losses are computed from what is known. Default True.

    Raises:
        ValueError: for an argument outside of its range.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x, y = np.eye(4, dtype="float32"), np.array([0, 1, 2, 0])
        >>> history = RSO(cycles=3).fit(model, x, y)
        >>> [cycle.updates for cycle in history], history[2].loss < history[0].loss
        ([15, 15, 15], True)

    References:
        Tripathi and Singh, arXiv:2005.05955.
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
        self.cycles = check_integer("cycles", cycles, at_least=1)
        self.batch_size = check_integer("batch_size", batch_size, at_least=1)
        self.last_scale = check_number("last_scale", last_scale, above=0, at_most=1)
        self.move: moves.Kind = move
        self.together = check_integer("together", together, at_least=1)
        self.seed = check_seed(seed)
        self.selection = Selection(
            skip_bias=skip_bias, skip_batch_norm=skip_batch_norm, exclude=exclude
        )
        self.cached = bool(cached)

    def fit(
        self, model: keras.Model, x: np.ndarray, y: np.ndarray, *, verbose: int = 0
    ) -> list[Cycle]:
        """Train a model for all cycles.

        Args:
            model: built; gives logits, shape (n, classes). With `cached`, a chain of layers as
                `laperm_lib.local_search.chains.blocks_of` takes it. It need not be compiled.
            x: inputs, shape (n, ...).
            y: classes, integers of shape (n,).
            verbose: 1 shows a progress bar, 0 (the default) nothing.

        Returns:
            What happened in each cycle.

        Raises:
            ValueError: if the model is not built, none of its variables is left to train, one that
                is has no spread to begin with, losses of this model cannot be cached, or `x` and
                `y` do not fit it; before anything is changed. Or if a loss is not finite.
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
        spreads: Sequence[float] | None = None,
    ) -> Iterator[Cycle]:
        """Train a model, cycle by cycle; whoever takes the results says how far.

        Args:
            model: as for `fit`.
            x: as for `fit`.
            y: as for `fit`.
            first_cycle: how many cycles the model has been through, 0 (the default) to all.
            spreads: the `spreads` before the first of them, to go on as if there had been no
                interruption. Default: those of the present weights.

        Returns:
            An iterator that trains for one cycle whenever it is asked for the next result.

        Raises:
            ValueError: as `fit`, and if there is no such `first_cycle`.
            UnknownLayerError: as `fit`.
        """
        if check_integer("first_cycle", first_cycle, at_least=0) > self.cycles:
            raise ValueError(f"first_cycle is 0 to {self.cycles}, got {first_cycle}.")
        trained = self.selection.of_model(model)
        spreads = self.spreads(model) if spreads is None else spreads
        if len(spreads) != len(trained):
            raise ValueError(f"There are {len(trained)} variables, and spreads of {len(spreads)}.")
        x, y = np.asarray(x), np.asarray(y)
        local_search.check_samples(model, x, y)
        if self.cached:
            blocks_of(model)  # raises for a model that is no chain
        batches = Batches(
            x,
            y,
            batch_size=self.batch_size,
            epochs=self.cycles * len(trained),
            seed=self.seed,
            drop_remainder=True,  # a whole variable would be fitted to a few samples
        )
        return self._cycles(model, trained, spreads, batches, first_cycle)

    def spreads(self, model: keras.Model) -> list[float]:
        r"""The standard deviations :math:`\sigma_0` that a search from these weights begins with.

        Args:
            model: built.

        Returns:
            One for each variable that is trained, in the order of the layers.

        Raises:
            ValueError: as `fit`.
            UnknownLayerError: as `fit`.

        Examples:
            >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="d")])
            >>> model.set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
            >>> RSO().spreads(model)
            [1.0, 1.0]
        """
        found = []
        for vectors in self.selection.of_model(model):
            variable, kernel = vectors.variable, getattr(vectors.layer, "kernel", None)
            source = variable if kernel is None else kernel
            sigma = float(ops.convert_to_numpy(source).astype(np.float64).std())
            if sigma == 0 and self.move == "addition":
                raise ValueError(
                    f"All values of '{source.path}' are equal, so there is no spread for additions "
                    f"to '{variable.path}' to begin with: exclude it."
                )
            found.append(sigma)
        return found

    # -- the algorithm ----------------------------------------------------------------------------

    def _cycles(
        self,
        model: keras.Model,
        trained: list[WeightVectors],
        spreads: Sequence[float],
        batches: Batches,
        first_cycle: int,
    ) -> Iterator[Cycle]:
        for cycle in range(first_cycle, self.cycles):
            counts = Counts()
            for visited, number in enumerate(reversed(range(len(trained)))):
                x, y = batches[cycle * len(trained) + visited]
                sigma = self._scale(cycle) * spreads[number]
                generator = np.random.Generator(raw_bits(self.seed, f"rso/{number}/{cycle}"))
                loss, visit = self._visit(model, trained[number], sigma, generator, x, y)
                counts += visit
            batch_statistics.reestimate(model, [x])
            yield Cycle(number=cycle + 1, loss=loss, **vars(counts))

    def _visit(
        self,
        model: keras.Model,
        vectors: WeightVectors,
        sigma: float,
        generator: np.random.Generator,
        x: np.ndarray,
        y: np.ndarray,
    ) -> tuple[float, Counts]:
        """Visit all weights of a variable once; the loss then, and what is counted."""
        variable = vectors.variable
        weights = np.array(ops.convert_to_numpy(variable))
        losses: Losses = (CachedLosses if self.cached else RecomputedLosses)(model, variable, x, y)
        if not math.isfinite(losses.loss):
            raise ValueError(f"The loss is {losses.loss} before '{variable.path}' is visited.")
        found = moves.KINDS[self.move](weights, vectors.neuron_axes, sigma, generator)
        counts = local_search.search(losses, weights, found, self.together)
        variable.assign(weights)
        return float(losses.loss), counts

    def _scale(self, cycle: int) -> float:
        """The share of the first sigma that a cycle has."""
        if self.cycles == 1:
            return 1.0
        return 1 - (1 - self.last_scale) * cycle / (self.cycles - 1)
