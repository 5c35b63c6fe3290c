r"""The losses of a network with one weight changed: recomputed by Keras, or from a cache.

The loss is the mean cross-entropy of the logits :math:`l` on a mini-batch with classes :math:`y`,

.. math:: L = \frac{1}{N} \sum_n \Bigl( \log \sum_k e^{l_{nk}} - l_{n y_n} \Bigr).

`RecomputedLosses` lets Keras compute the whole network for each change, for any model that gives
logits. `CachedLosses` gives the same many times faster, for the networks of
`laperm_lib.local_search.network`:

If a weight changes by d, one output channel of its layer changes, by d times the inputs that the
weight is multiplied with. What follows up to the next linear layer keeps channels apart. That
layer's output changes by its kernel times the *difference* in the one channel, and so on to the
logits, each layer from the differences before it. After a rectifier most differences are zero and
are skipped. The layers before the changed one need no work at all.

In the last layer a logit :math:`l_k` alone changes, and the others enter the loss by their
:math:`r = \log \sum_{j \ne k} e^{l_j}`, so that the sum is :math:`\log (e^{r} + e^{l_k})`.
"""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from laperm_lib._numba import compiled
from laperm_lib.batch_statistics import reestimated
from laperm_lib.local_search.network import Block, UnknownChainError, blocks_of, window

_log = logging.getLogger(__name__)

_CHUNK = 2**17
"""How many numbers of a layer are worked on at once, to stay in the processor's cache."""


class RecomputedLosses:
    """Losses on one mini-batch where one variable of a model changes, each computed by Keras.

    Batch normalisation uses the statistics of the mini-batch, and dropout does nothing.
    """

    def __init__(self, model: keras.Model, variable: Any, x: np.ndarray, y: np.ndarray) -> None:
        self._model, self._variable, self._x, self._y = model, variable, x, y
        self._weights = np.array(ops.convert_to_numpy(variable))
        self.loss = self._loss()
        """The mean loss with the present weights."""

    def of(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The mean losses, float64 (moves, alternatives), with the places and values of `Moves`."""
        losses = np.empty(values.shape[:2])
        try:
            for move, alternative in np.ndindex(losses.shape):
                changed = self._weights.copy()
                changed.flat[places[move]] = values[move, alternative]
                self._variable.assign(changed)
                losses[move, alternative] = self._loss()
        finally:
            self._variable.assign(self._weights)
        return losses

    def keep(self, places: np.ndarray, values: np.ndarray) -> None:
        """Give weights other values, both of shape (moves, weights), and update `loss`."""
        self._weights.flat[places] = values
        self._variable.assign(self._weights)
        self.loss = self._loss()

    def _loss(self) -> float:
        with reestimated(self._model, [self._x]):
            outputs = self._model(self._x, training=False)
        logits = ops.convert_to_numpy(outputs).astype(np.float64)
        return float((_log_sum_exp(logits) - logits[np.arange(len(logits)), self._y]).mean())


class CachedLosses:
    """`RecomputedLosses` of a network that `blocks_of` takes apart; the model is not touched."""

    def __init__(self, model: keras.Model, variable: Any, x: np.ndarray, y: np.ndarray) -> None:
        blocks = blocks_of(model)
        self._parameters = {id(v): np.array(ops.convert_to_numpy(v)) for v in model.weights}
        number = _block_of(blocks, variable)
        self._variable = variable
        self._weights = self._parameters[id(variable)].ravel()  # a view
        self._y = np.asarray(y)
        self._block, self._rest = blocks[number], blocks[number + 1 :]

        values = np.ascontiguousarray(x, self._weights.dtype)
        values = values.reshape(len(x), *blocks[0].input_shape)
        self._inputs, outputs = None, []
        for block in blocks:
            if variable is block.layer.kernel:
                self._inputs = self._inputs_by_channel(values)
            outputs.append(block.forward(values, self._parameters))
            values = outputs[-1][1]
        # Of the linear layer and of the whole of each block, with the present weights.
        (self._z, self._out), *self._later = outputs[number:]
        self._logits = values.reshape(len(x), -1)
        self._channels: tuple[int, ...] = ()
        self._z_of_focus = self._out_of_focus = np.empty(0)
        self.loss = float(_cross_entropy(self._logits, self._y)) / len(x)

    def of(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """As `RecomputedLosses.of`."""
        losses = np.empty(values.shape[:2])
        for channels, group in groupby(
            range(len(places)), key=lambda move: self._channels_of(places[move])
        ):
            moves = list(group)
            self._focus(channels)
            candidates = [
                self._changed(places[move], value)[1] for move in moves for value in values[move]
            ]
            losses[moves] = self._losses(candidates).reshape(len(moves), -1)
        return losses

    def keep(self, places: np.ndarray, values: np.ndarray) -> None:
        """As `RecomputedLosses.keep`."""
        for row, value in zip(places, values, strict=True):
            self._focus(self._channels_of(row))
            z, out = self._changed(row, value)
            self.loss = float(self._losses([out], keep=True)[0])
            self._weights[row] = value
            self._z_of_focus, self._out_of_focus = z, out

    # -- the block of the variable ----------------------------------------------------------------

    def _inputs_by_channel(self, values: np.ndarray) -> np.ndarray:
        """The padded inputs, (channels, samples, height, width).

        The inputs of one weight lie close together: images, or one pixel of each, if it meets one.
        """
        padded = np.pad(values, ((0, 0), *self._block.padding, (0, 0)))
        if self._block.output_shape[:2] == (1, 1):
            return np.ascontiguousarray(padded.transpose(3, 1, 2, 0)).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(padded.transpose(3, 0, 1, 2))

    def _channels_of(self, places: np.ndarray) -> tuple[int, ...]:
        """The output channels that weights belong to: the last axis of every variable here."""
        return tuple(sorted({int(place) % self._variable.shape[-1] for place in places}))

    def _focus(self, channels: tuple[int, ...]) -> None:
        """Keep the block's outputs in some channels at hand, as contiguous arrays."""
        if channels == self._channels:
            return
        if self._channels:
            self._z[..., self._channels] = self._z_of_focus
            self._out[..., self._channels] = self._out_of_focus
        self._channels = channels
        self._z_of_focus = np.ascontiguousarray(self._z[..., channels])
        self._out_of_focus = np.ascontiguousarray(self._out[..., channels])
        if self._rest:
            kernel = self._rest[0].kernel(self._parameters)
            self._kernel_of_focus = np.ascontiguousarray(kernel[:, :, channels])
        else:
            self._others = _log_sum_exp(np.delete(self._logits, channels, axis=1))
            elsewhere = ~np.isin(self._y, channels)
            chosen = self._logits[np.flatnonzero(elsewhere), self._y[elsewhere]]
            self._constant = float(chosen.sum(dtype=np.float64))
            self._samples_of = [np.flatnonzero(self._y == channel) for channel in channels]

    def _changed(self, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of the linear layer and the block in the channels in focus, with a move."""
        z, parameters, layer = self._z_of_focus, self._parameters, self._block.layer
        is_bias = layer.use_bias and self._variable is layer.bias
        if self._inputs is None and not is_bias:  # of a batch normalisation
            changed = self._weights.copy()
            changed[places] = values
            parameters = {**parameters, id(self._variable): changed}
        else:
            z = z.copy()
            for place, value in zip(places, values, strict=True):
                change = value - self._weights[place]
                if self._inputs is not None:
                    i, j, c, _ = np.unravel_index(place, self._block.kernel_shape)
                    size, strides = self._block.output_shape[:2], self._block.strides
                    change = change * window(self._inputs[c], i, j, size, strides)
                z[..., self._channels.index(int(place) % self._variable.shape[-1])] += change
        return z, self._block.apply_steps(z, parameters, list(self._channels))

    # -- the blocks after it ----------------------------------------------------------------------

    def _losses(self, candidates: Sequence[np.ndarray], keep: bool = False) -> np.ndarray:
        """The mean losses, for other outputs of the block in the channels in focus."""
        if self._rest:
            differences = [out - self._out_of_focus for out in candidates]
            return self._propagated(differences, keep) / len(self._y)
        losses = []
        for out in candidates:
            log_sum = self._others
            chosen = self._constant
            for index, samples in enumerate(self._samples_of):
                logits = out[:, 0, 0, index]
                log_sum = _log_add_exp(log_sum, logits)
                chosen += float(logits[samples].sum(dtype=np.float64))
            losses.append((float(log_sum.sum(dtype=np.float64)) - chosen) / len(self._y))
        return np.array(losses)

    def _propagated(self, differences: Sequence[np.ndarray], keep: bool) -> np.ndarray:
        """The summed losses, from the differences in the block's channels in focus.

        A few samples at a time, to stay in the processor's cache; batch normalisation needs all.
        """
        totals = np.zeros(len(differences))
        count = len(self._y)
        if not any(block.normalizations for block in self._rest):
            largest = max(z[0].size for z, _ in self._later)
            count = max(64, _CHUNK // largest)
        for first in range(0, len(self._y), count):
            chunk = slice(first, first + count)
            for number, difference in enumerate(differences):
                logits = self._logits_from(difference[chunk], chunk, keep)
                totals[number] += _cross_entropy(logits, self._y[chunk])
        return totals

    def _logits_from(self, difference: np.ndarray, chunk: slice, keep: bool) -> np.ndarray:
        """The logits of some samples, from layer to layer by differences."""
        kernels = [block.kernel(self._parameters) for block in self._rest]
        kernels[0] = self._kernel_of_focus
        for block, kernel, (z_before, out_before) in zip(
            self._rest, kernels, self._later, strict=True
        ):
            z = z_before[chunk] if keep else z_before[chunk].copy()
            block.add_linear(difference, kernel, z)
            out = block.apply_steps(z, self._parameters)
            difference = out - out_before[chunk]
            if keep:
                out_before[chunk] = out
        return out.reshape(len(out), -1)


Losses = CachedLosses | RecomputedLosses


def kind_of_losses(model: keras.Model) -> type[Losses]:
    """`CachedLosses` if the model is a chain of known layers, else `RecomputedLosses`."""
    try:
        blocks_of(model)
    except UnknownChainError as reason:
        _log.info("RSO is slow, for Keras recomputes '%s' for every move: %s", model.name, reason)
        return RecomputedLosses
    return CachedLosses


def check_samples(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Refuse samples that do not fit a model, and a model without logits, by a ValueError."""
    wanted = getattr(model, "input_shape", None)  # a subclassed model has none
    if wanted is not None and not (
        len(x.shape) == len(wanted)
        and all(size in (None, given) for given, size in zip(x.shape[1:], wanted[1:], strict=True))
    ):
        raise ValueError(f"Inputs of '{model.name}' have the shape {wanted}, got {x.shape}.")
    last = model.layers[-1] if model.layers else None
    if isinstance(last, layers.Softmax) or getattr(last, "activation", None) in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    ):
        raise ValueError(f"'{model.name}' gives probabilities; leave out its last activation.")
    shape = getattr(model, "output_shape", None) or tuple(model(x[:1], training=False).shape)
    if len(shape) != 2 or not isinstance(shape[1], int):  # of several outputs, a list
        raise ValueError(f"Logits must have shape (n, classes), those of '{model.name}': {shape}.")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"Classes are integers of shape (n,) or (n, 1), got {y.dtype} {y.shape}.")
    if y.size and (y.min() < 0 or y.max() >= shape[1]):
        raise ValueError(f"Classes are 0 to {shape[1] - 1}, got {y.min()} to {y.max()}.")


def _block_of(blocks: Sequence[Block], variable: Any) -> int:
    """The number of the block that a variable belongs to."""
    for number, block in enumerate(blocks):
        for layer in (block.layer, *block.normalizations):
            if any(v is variable for v in layer.trainable_variables):
                return number
    raise ValueError(f"'{variable.path}' belongs to no layer of this model.")


def _log_add_exp(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The logarithm of e^a + e^b: `numpy.logaddexp`, but several times as fast."""
    return np.maximum(a, b) + np.log(1 + np.exp(-np.abs(a - b)))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the sum over the last axis of e^l, -inf where it is empty."""
    if not logits.shape[1]:
        return np.full(len(logits), -np.inf, logits.dtype)
    most = logits.max(axis=1)
    return most + np.log(np.exp(logits - most[:, None]).sum(axis=1))


@compiled()
def _cross_entropy(logits, classes):  # type: ignore[no-untyped-def]
    """The cross-entropies of all samples, summed in float64."""
    samples, count = logits.shape
    total = 0.0
    for n in range(samples):
        most = logits[n, 0]
        for k in range(1, count):
            most = max(most, logits[n, k])
        exponentials = np.exp(logits[n, 0] - most)
        for k in range(1, count):
            exponentials += np.exp(logits[n, k] - most)
        total += np.float64(np.log(exponentials) + most - logits[n, classes[n]])
    return total
