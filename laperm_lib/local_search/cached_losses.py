r"""The losses of a network with one weight changed, from what is known of it without the change.

The loss is the mean cross-entropy of the logits :math:`l` on a mini-batch with classes :math:`y`,

.. math:: L = \frac{1}{N} \sum_n \Bigl( \log \sum_k e^{l_{nk}} - l_{n y_n} \Bigr).

Change a weight by :math:`d`. Of its layer, only one output channel changes: by d times the inputs
that the weight is multiplied with. What follows up to the next linear layer keeps channels apart
(see `blocks`). The next layer is linear, so it adds what its kernel makes of the
*difference* in that one channel; so on to the logits, each layer from the differences before it.
Behind a rectifier most are zero and are skipped. What comes before the layer is not touched at all.

In the last layer a logit :math:`l_k` alone changes, and the others enter the loss by their
:math:`r = \log \sum_{j \ne k} e^{l_j}`, so that the sum is :math:`\log (e^{r} + e^{l_k})`.

`recomputed_losses` is the same for reading and comparing: it lets Keras compute everything anew.

References:
    Tripathi and Singh, 2020, arXiv:2005.05955 (changing one weight touches one output channel).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from laperm_lib._numba import compiled
from laperm_lib.local_search.blocks import Block, pad, window
from laperm_lib.local_search.chains import blocks_of

_CHUNK = 2**17
"""How many numbers of a layer are worked on at once, to stay in the processor's cache."""


class CachedLosses:
    """Losses on one mini-batch, where one variable of a model changes.

    Args:
        model: as `chains.blocks_of` takes it; it gives logits.
        variable: the one that changes, of a `Dense`, `Conv2D` or `BatchNormalization` layer.
        x: the mini-batch, shape (n, ...).
        y: its classes, integers of shape (n,).

    Raises:
        ValueError: if the model cannot be taken apart or the variable is none of its blocks'.

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> model.set_weights([np.zeros((2, 3)), np.zeros(3)])
        >>> losses = CachedLosses(model, model.layers[0].bias, np.ones((4, 2)), np.zeros(4, int))
        >>> round(losses.loss, 4)  # log 3
        1.0986
        >>> bool(losses.of(np.array([[0]]), np.array([[[1.0]]]))[0, 0] < losses.loss)
        True
    """

    def __init__(self, model: keras.Model, variable: Any, x: np.ndarray, y: np.ndarray) -> None:
        blocks = blocks_of(model)
        self._parameters = {id(v): np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
        number = _block_of(blocks, variable)
        self._variable = variable
        self._weights = self._parameters[id(variable)].ravel()  # a view
        self._y = np.asarray(y)
        self._block, self._rest = blocks[number], blocks[number + 1 :]

        dtype = self._weights.dtype
        values = np.ascontiguousarray(x, dtype).reshape(len(x), *blocks[0].input_shape)
        for block in blocks[:number]:
            values = self._forward(block, values)[1]
        self._padded = self._inputs(values) if variable is self._block.layer.kernel else None
        self._z, self._out = self._forward(self._block, values)
        # What the linear layer and the whole of each block behind give, as the weights are now.
        self._behind = []
        values = self._out
        for block in self._rest:
            self._behind.append(self._forward(block, values))
            values = self._behind[-1][1]
        self._logits = values.reshape(len(x), -1)
        self._channels: tuple[int, ...] = ()
        self._z_of_focus = self._out_of_focus = np.empty(0)
        self.loss = float(_cross_entropy(self._logits, self._y)) / len(x)
        """The mean loss as the weights are now."""

    def of(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The losses with other values, as `Losses.of`."""
        losses = np.empty(values.shape[:2])
        touched = [self._channels_of(row) for row in places]
        first = 0
        while first < len(places):  # moves of the same channels, together
            last = first + 1
            while last < len(places) and touched[last] == touched[first]:
                last += 1
            self._focus(touched[first])
            candidates = [
                self._changed(row, value)[1]
                for row, alternatives in zip(places[first:last], values[first:last], strict=True)
                for value in alternatives
            ]
            losses[first:last] = np.reshape(self._losses(candidates), (last - first, -1))
            first = last
        return losses

    def keep(self, places: np.ndarray, values: np.ndarray) -> None:
        """Change weights, one move after the other, as `Losses.keep`."""
        for row, value in zip(places, values, strict=True):
            self._focus(self._channels_of(row))
            z, out = self._changed(row, value)
            self._weights[row] = value
            difference = out - self._out_of_focus
            self._z_of_focus, self._out_of_focus = z, out
            if self._rest:
                total = self._propagated([difference], keep=True)[0]
                self.loss = float(total) / len(self._y)
            else:
                self.loss = float(self._losses([out])[0])

    # -- the block of the variable ----------------------------------------------------------------

    def _channels_of(self, places: np.ndarray) -> tuple[int, ...]:
        """The output channels that weights belong to: the last axis of every variable here."""
        return tuple(sorted({int(place) % self._variable.shape[-1] for place in places}))

    def _focus(self, channels: tuple[int, ...]) -> None:
        """Have what the block gives in some channels at hand, as contiguous arrays."""
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
            logits = np.delete(self._logits, channels, axis=1)
            self._others = _log_sum_exp(logits)
            elsewhere = ~np.isin(self._y, channels)
            chosen = self._logits[np.flatnonzero(elsewhere), self._y[elsewhere]]
            self._constant = float(chosen.sum(dtype=np.float64))
            self._samples_of = [np.flatnonzero(self._y == channel) for channel in channels]

    def _changed(self, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the linear layer and the block give in the channels in focus, with other values."""
        z, parameters = self._z_of_focus, self._parameters
        layer = self._block.layer
        if self._padded is not None:
            z = z.copy()
            for place, value in zip(places, values, strict=True):
                i, j, c, k = np.unravel_index(place, self._block.kernel_shape)
                size, strides = self._block.output_shape[:2], self._block.strides
                inputs = window(self._padded[c], i, j, size, strides)
                z[..., self._channels.index(int(k))] += (value - self._weights[place]) * inputs
        elif layer.use_bias and self._variable is layer.bias:
            z = z.copy()
            for place, value in zip(places, values, strict=True):
                z[..., self._channels.index(int(place))] += value - self._weights[place]
        else:
            changed = self._weights.copy()
            changed[places] = values
            parameters = {**parameters, id(self._variable): changed}
        return z, self._block.apply_steps(z, parameters, list(self._channels))

    # -- what is behind it ------------------------------------------------------------------------

    def _losses(self, candidates: Sequence[np.ndarray]) -> np.ndarray:
        """The mean losses, where the block gives something else in the channels in focus."""
        if self._rest:
            differences = [out - self._out_of_focus for out in candidates]
            return self._propagated(differences) / len(self._y)
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

    def _propagated(self, differences: Sequence[np.ndarray], keep: bool = False) -> np.ndarray:
        """The summed losses, from how the block's channels in focus differ.

        Candidates take turns on a few samples each, whose values are then in the processor's cache.
        A batch normalisation behind needs all samples at once.
        """
        totals = np.zeros(len(differences))
        count = len(self._y)
        if not any(block.normalizations for block in self._rest):
            largest = max(z[0].size for z, _ in self._behind)
            count = max(64, _CHUNK // largest)
        for first in range(0, len(self._y), count):
            chunk = slice(first, first + count)
            for number, difference in enumerate(differences):
                logits = self._logits_from(difference[chunk], chunk, keep)
                totals[number] += _cross_entropy(logits, self._y[chunk])
        return totals

    def _logits_from(self, difference: np.ndarray, chunk: slice, keep: bool) -> np.ndarray:
        """The logits of some samples, from layer to layer by differences."""
        kernel = self._kernel_of_focus
        for number, (block, (z_before, out_before)) in enumerate(
            zip(self._rest, self._behind, strict=True)
        ):
            if number:
                kernel = block.kernel(self._parameters)
            z = z_before[chunk] if keep else z_before[chunk].copy()
            block.add_linear(difference, kernel, z)
            out = block.apply_steps(z, self._parameters)
            is_last = block is self._rest[-1]
            if not is_last:
                difference = out - out_before[chunk]
            if keep:
                out_before[chunk] = out
        return out.reshape(len(out), -1)

    # -- the state at the start -------------------------------------------------------------------

    def _forward(self, block: Block, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = block.start(len(values), self._parameters)
        block.add_linear(values, block.kernel(self._parameters), z)
        out = block.apply_steps(z, self._parameters)
        return z, (out.copy() if out is z else out)

    def _inputs(self, values: np.ndarray) -> np.ndarray:
        """The padded inputs by channel, (channels, samples, height, width).

        In memory, what one weight is multiplied with lies close together: whole images, or, where
        each weight meets one pixel of every image, those pixels.
        """
        block = self._block
        size = block.output_shape[:2]
        padded = pad(values, block.kernel_shape[:2], size, block.strides, block.padding)
        if size == (1, 1):
            return np.ascontiguousarray(padded.transpose(3, 1, 2, 0)).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(padded.transpose(3, 0, 1, 2))


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
