"""A chain of Keras layers, read as blocks (see `blocks`)."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from laperm_lib.local_search.blocks import ACTIVATIONS, Block, Parameters, Step, window


def blocks_of(model: keras.Model) -> list[Block]:
    """Take a model apart.

    Args:
        model: built; a chain of `Dense`, `Conv2D`, the activations of `ACTIVATIONS` (in a layer or
            as `Activation`, `ReLU` and `LeakyReLU`), `BatchNormalization`, `MaxPooling2D`,
            `AveragePooling2D`, `GlobalAveragePooling2D`, `GlobalMaxPooling2D`, `Flatten` and
            `Dropout`, which does nothing here; images have their channels last. Its parameters and
            arithmetic are float32, or float64.

    Returns:
        The blocks, from the input to the output.

    Raises:
        ValueError: if the model is another one; names the layer.

    Examples:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((28, 28, 1)),
        ...         layers.Conv2D(8, 3, strides=2, activation="relu"),
        ...         layers.Flatten(),
        ...         layers.Dense(10),
        ...     ]
        ... )
        >>> [block.kernel_shape for block in blocks_of(model)]
        [(3, 3, 1, 8), (13, 13, 8, 10)]
    """
    chain = _chain(model)
    reader = _Reader(model, chain[0].variable_dtype if chain else "float32")
    for layer in chain:
        reader.read(layer)
    if not reader.blocks:
        raise ValueError(f"'{model.name}' has no Dense or Conv2D layer.")
    return reader.blocks


def _chain(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model, each of which takes what the one before it gives."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"'{getattr(model, 'name', model)}' is not a built Keras model.")
    inner = [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    if not isinstance(model, keras.Sequential) and not _are_joined(model, inner):
        raise ValueError(f"The layers of '{model.name}' are no chain from input to output.")
    return inner


def _are_joined(model: keras.Model, inner: list[keras.Layer]) -> bool:
    """Whether the only input goes through one layer after the other to the only output."""
    try:
        ends = [model.inputs[0], *(layer.output for layer in inner)]
        starts = [*(layer.input for layer in inner), model.outputs[0]]
    except (AttributeError, ValueError, TypeError):
        # A subclass of Model has no such tensors, nor has a layer that is called twice one of each.
        return False
    alone = len(model.inputs) == len(model.outputs) == 1
    return alone and all(end is start for end, start in zip(ends, starts, strict=True))


class _Reader:
    """Reads a chain layer by layer, and knows what shape has been reached."""

    def __init__(self, model: keras.Model, dtype: str) -> None:
        self.blocks: list[Block] = []
        shape = model.input_shape[1:]
        if len(shape) not in (1, 3) or None in shape:
            raise ValueError(f"The inputs of '{model.name}' are no vectors or images: {shape}.")
        # What the next layer gets: an image, which may be flattened already.
        self._shape = (1, 1, *shape) if len(shape) == 1 else tuple(shape)
        self._flat = len(shape) == 1
        self._dtype = dtype

    def read(self, layer: keras.Layer) -> None:
        """Add a layer to the blocks."""
        if layer.compute_dtype != self._dtype or self._dtype not in ("float32", "float64"):
            raise self._unknown(layer, f"computes in {layer.compute_dtype}")
        if not self._flat and getattr(layer, "data_format", None) == "channels_first":
            raise self._unknown(layer, "has its channels first")
        match layer:
            case layers.Dropout():
                pass
            case layers.Flatten():
                self._flat = True
            case layers.Dense() if type(layer).call is layers.Dense.call:
                self._dense(layer)
            case layers.Conv2D() if type(layer).call is layers.Conv2D.call:
                self._conv(layer)
            case _:
                self._step(layer)

    def _dense(self, layer: layers.Dense) -> None:
        if not self._flat:
            raise self._unknown(layer, "is not behind Flatten")
        height, width, channels = self._shape
        self._linear(layer, (height, width, channels, layer.units), (1, 1), (1, 1), (0, 0))
        self._flat = True

    def _conv(self, layer: layers.Conv2D) -> None:
        if self._flat or layer.groups != 1 or layer.dilation_rate != (1, 1):
            raise self._unknown(layer, "has groups or dilation, or a flat input")
        size, padding = [], []
        for axis in (0, 1):
            length, reach, stride = self._shape[axis], layer.kernel_size[axis], layer.strides[axis]
            if layer.padding == "same":  # half of the zeros before, the odd one behind
                size.append(-(-length // stride))
                padding.append(max(0, (size[-1] - 1) * stride + reach - length) // 2)
            else:
                size.append((length - reach) // stride + 1)
                padding.append(0)
        kernel_shape = (*layer.kernel_size, self._shape[2], layer.filters)
        self._linear(layer, kernel_shape, tuple(size), tuple(layer.strides), tuple(padding))

    def _linear(self, layer: Any, kernel_shape: Any, size: Any, strides: Any, padding: Any) -> None:
        output_shape = (*size, kernel_shape[-1])
        block = Block(layer, kernel_shape, self._shape, output_shape, strides, padding)
        self.blocks.append(block)
        self._shape = output_shape
        self._add_activation(layer, layer.activation)

    def _step(self, layer: keras.Layer) -> None:
        if not self.blocks:
            raise self._unknown(layer, "comes before the first Dense or Conv2D layer")
        match layer:
            case layers.Activation():
                self._add_activation(layer, layer.activation)
            case layers.ReLU() if layer.threshold == 0:
                self._add_relu(layer.max_value, layer.negative_slope)
            case layers.LeakyReLU():
                self._add_relu(None, layer.negative_slope)
            case layers.BatchNormalization() if self._shape[:2] == (1, 1) or not self._flat:
                if layer.renorm or layer.axis not in (-1, 3 if not self._flat else 1):
                    raise self._unknown(layer, "has renorm or another axis than the channels")
                self.blocks[-1].steps.append(_normalization(layer))
                self.blocks[-1].normalizations.append(layer)
            case layers.MaxPooling2D() | layers.AveragePooling2D() if (
                not self._flat and layer.padding == "valid"
            ):
                self._pool(layer)
            case layers.GlobalMaxPooling2D() | layers.GlobalAveragePooling2D() if (
                not self._flat and not layer.keepdims
            ):
                is_maximum = isinstance(layer, layers.GlobalMaxPooling2D)
                self._add(_greatest if is_maximum else _mean)
                self._shape, self._flat = (1, 1, self._shape[2]), True
            case _:
                raise self._unknown(layer, "is none of those that are known there")

    def _pool(self, layer: Any) -> None:
        sizes, strides = tuple(layer.pool_size), tuple(layer.strides)
        rows, columns = ((self._shape[axis] - sizes[axis]) // strides[axis] + 1 for axis in (0, 1))
        is_maximum = isinstance(layer, layers.MaxPooling2D)

        def pool(x: np.ndarray) -> np.ndarray:
            taps = [
                window(x, i, j, (rows, columns), strides)
                for i in range(sizes[0])
                for j in range(sizes[1])
            ]
            result = taps[0].copy()
            for tap in taps[1:]:
                if is_maximum:
                    np.maximum(result, tap, out=result)
                else:
                    result += tap
            return result if is_maximum else result / len(taps)

        self._add(pool)
        self._shape = (rows, columns, self._shape[2])

    def _add_activation(self, layer: keras.Layer, activation: Any) -> None:
        name = getattr(activation, "__name__", None)
        if name not in ACTIVATIONS or activation is not keras.activations.get(name):
            raise self._unknown(layer, f"has the activation {name}")
        if name != "linear":
            self._add(ACTIVATIONS[name])

    def _add_relu(self, most: float | None, slope: float) -> None:
        self._add(
            lambda x: np.minimum(np.where(x > 0, x, slope * x), np.inf if most is None else most)
        )

    def _add(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.blocks[-1].steps.append(lambda x, parameters, channels: function(x))

    def _unknown(self, layer: keras.Layer, why: str) -> ValueError:
        return ValueError(
            f"Losses of this model cannot be cached: '{layer.name}' ({type(layer).__name__}) {why}."
        )


def _greatest(x: np.ndarray) -> np.ndarray:
    return x.max(axis=(1, 2), keepdims=True)


def _mean(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(1, 2), keepdims=True)


def _normalization(layer: keras.layers.BatchNormalization) -> Step:
    """Batch normalisation by the statistics of the batch itself."""

    def step(x: np.ndarray, parameters: Parameters, channels: Any) -> np.ndarray:
        mean = x.mean(axis=(0, 1, 2))
        deviation = x - mean
        variance = np.square(deviation).mean(axis=(0, 1, 2))
        scale = 1 / np.sqrt(variance + x.dtype.type(layer.epsilon))
        if layer.scale:
            scale = scale * parameters[id(layer.gamma)][channels]
        result = deviation * scale
        if layer.center:
            result += parameters[id(layer.beta)][channels]
        return result

    return step
