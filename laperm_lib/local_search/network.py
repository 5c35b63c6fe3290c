"""A network that is a chain of layers, in NumPy, taken apart into blocks that keep channels apart.

A block is one linear layer, `Dense` or `Conv2D`, and what follows it up to the next: activations,
pooling, batch normalisation. Only the linear layer mixes channels, so a change to one trained
number touches one output channel of its block, and `CachedLosses` need not compute the others.

Arrays are (samples, height, width, channels). A dense layer after `Flatten` is a convolution as
large as its input, and one after a vector a convolution of 1 x 1, so there is one kind of linear
layer here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from laperm_lib._numba import compiled

Parameters = Mapping[int, np.ndarray]
"""The values of variables by the variable's id."""

Step = Callable[[np.ndarray, Parameters, Any], np.ndarray]
"""A part of a block that keeps channels apart, of an array, the parameters, and an index that says
which channels these are."""

ACTIVATIONS: dict[Any, Step] = {
    keras.activations.linear: lambda x, *_: x,
    keras.activations.relu: lambda x, *_: np.maximum(x, 0),
    keras.activations.leaky_relu: lambda x, *_: np.where(x > 0, x, 0.2 * x),
    keras.activations.sigmoid: lambda x, *_: 0.5 * (1 + np.tanh(0.5 * x)),
    keras.activations.tanh: lambda x, *_: np.tanh(x),
}

_IMAGES = {"data_format": "channels_last"}

LAYERS: dict[type, dict[str, Any]] = {
    layers.Dense: {},
    layers.Conv2D: {**_IMAGES, "groups": 1, "dilation_rate": (1, 1)},
    layers.Flatten: _IMAGES,
    layers.Dropout: {},  # does nothing here
    layers.BatchNormalization: {"axis": -1, "renorm": False},
    layers.MaxPooling2D: {**_IMAGES, "padding": "valid"},
    layers.AveragePooling2D: {**_IMAGES, "padding": "valid"},
    layers.Activation: {},
    layers.ReLU: {"max_value": None, "negative_slope": 0, "threshold": 0},
    layers.LeakyReLU: {},
}
"""The layers (no subclasses) of a chain, and the values that their options must have."""


class UnknownChainError(ValueError):
    """A network is not a chain of the layers that are known here."""


@dataclass(frozen=True, eq=False)
class Block:
    """One linear layer and what follows it."""

    layer: keras.Layer  # Dense or Conv2D
    kernel_shape: tuple[int, int, int, int]  # (height, width, in, out)
    input_shape: tuple[int, int, int]  # (height, width, channels)
    output_shape: tuple[int, int, int]  # of the linear layer
    strides: tuple[int, int]  # vertical and horizontal
    padding: tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right
    steps: list[Step] = field(default_factory=list)  # what follows, in order
    normalizations: list[keras.Layer] = field(default_factory=list)  # those among the steps

    def kernel(self, parameters: Parameters) -> np.ndarray:
        """The kernel, shape `kernel_shape`."""
        return parameters[id(self.layer.kernel)].reshape(self.kernel_shape)

    def forward(self, inputs: np.ndarray, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of the linear layer and of the whole block, as arrays of their own."""
        kernel = self.kernel(parameters)
        z = np.zeros((len(inputs), *self.output_shape), kernel.dtype)
        if self.layer.use_bias:
            z += parameters[id(self.layer.bias)]
        self.add_linear(inputs, kernel, z)
        out = self.apply_steps(z, parameters)
        return z, (out.copy() if out is z else out)

    def add_linear(self, inputs: np.ndarray, kernel: np.ndarray, z: np.ndarray) -> None:
        """Add the linear layer's response to contiguous inputs in some channels, without bias."""
        if self.output_shape[:2] == (1, 1) and kernel.shape[:2] == inputs.shape[1:3]:
            z.reshape(len(z), -1)[:] += inputs.reshape(len(z), -1) @ kernel.reshape(-1, z.shape[-1])
        else:
            (top, _), (left, _) = self.padding
            _scatter(inputs, np.ascontiguousarray(kernel), z, *self.strides, top, left)

    def apply_steps(
        self, z: np.ndarray, parameters: Parameters, channels: Any = slice(None)
    ) -> np.ndarray:
        """The block's output, from the linear layer's in some channels."""
        for step in self.steps:
            z = step(z, parameters, channels)
        return z


def window(padded: np.ndarray, i: int, j: int, size: Any, strides: Any) -> np.ndarray:
    """The inputs that the weight in row i and column j of a kernel is multiplied with, a view."""
    (rows, columns), (down, right) = size, strides
    return padded[:, i::down, j::right][:, :rows, :columns]


@compiled()
def _scatter(inputs, kernel, z, down, right, top, left):  # type: ignore[no-untyped-def]
    """Add a convolution to `z`, from inputs that are not zero to the outputs that they reach."""
    samples, height, width, channels = inputs.shape
    kernel_height, kernel_width, _, out = kernel.shape
    _, rows, columns, _ = z.shape
    for n in range(samples):
        for h in range(height):
            first_row = max(0, -((kernel_height - 1 - h - top) // down))
            last_row = min(rows - 1, (h + top) // down)
            for w in range(width):
                first_column = max(0, -((kernel_width - 1 - w - left) // right))
                last_column = min(columns - 1, (w + left) // right)
                for c in range(channels):
                    value = inputs[n, h, w, c]
                    if value != 0:
                        for row in range(first_row, last_row + 1):
                            i = h + top - row * down  # the kernel row between the two
                            for column in range(first_column, last_column + 1):
                                j = w + left - column * right
                                for k in range(out):
                                    z[n, row, column, k] += value * kernel[i, j, c, k]


# -- reading a Keras model ------------------------------------------------------------------------


def blocks_of(model: keras.Model) -> list[Block]:
    """The blocks of a built model from input to output, or an UnknownChainError."""
    chain = [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    if not isinstance(model, keras.Sequential) and not _are_joined(model, chain):
        raise UnknownChainError(f"The layers of '{model.name}' do not form a chain.")
    shape = model.input_shape[1:]
    if len(shape) not in (1, 3) or None in shape:
        raise UnknownChainError(f"The inputs of '{model.name}' are not vectors or images: {shape}.")
    is_flat = len(shape) == 1
    shape = (1, 1, *shape)[-3:]  # of the next layer's input, before it was flattened
    blocks: list[Block] = []
    for layer in chain:
        _check(layer, chain[0].variable_dtype)
        kind = type(layer)
        if kind is layers.Flatten:
            is_flat = True
        elif kind in (layers.Dense, layers.Conv2D):
            if kind is layers.Dense and not is_flat:
                raise _unknown(layer, "does not follow Flatten")
            blocks.append(_block(layer, shape))
            shape = blocks[-1].output_shape
        elif kind is not layers.Dropout:
            if not blocks:
                raise _unknown(layer, "comes before the first Dense or Conv2D layer")
            if kind is layers.BatchNormalization:
                if is_flat and shape[:2] != (1, 1):
                    raise _unknown(layer, "normalises flattened pixels, not channels")
                blocks[-1].normalizations.append(layer)
            step, shape = _step(layer, shape)
            blocks[-1].steps.append(step)
    return blocks


def _are_joined(model: keras.Model, chain: list[keras.Layer]) -> bool:
    """Whether the only input goes through one layer after the other to the only output."""
    try:
        ends = [*model.inputs, *(layer.output for layer in chain)]
        starts = [*(layer.input for layer in chain), *model.outputs]
    except (AttributeError, ValueError, TypeError):
        # A subclass of Model has no such tensors, nor has a layer that is called twice one of each.
        return False
    is_alone = len(model.inputs) == len(model.outputs) == 1
    return is_alone and all(end is start for end, start in zip(ends, starts, strict=True))


def _check(layer: keras.Layer, dtype: str) -> None:
    """Refuse a layer that is not known, or computes in another dtype than the network."""
    if type(layer) not in LAYERS:
        raise _unknown(layer, "is of a kind that is not cached")
    if layer.compute_dtype != dtype or dtype not in ("float32", "float64"):
        raise _unknown(layer, f"computes in {layer.compute_dtype}")
    for option, value in LAYERS[type(layer)].items():
        if getattr(layer, option) != value:
            raise _unknown(layer, f"has {option}={getattr(layer, option)!r}")
    activation = getattr(layer, "activation", keras.activations.linear)
    if activation not in ACTIVATIONS:
        raise _unknown(layer, f"has the activation {getattr(activation, '__name__', activation)}")


def _unknown(layer: keras.Layer, why: str) -> UnknownChainError:
    return UnknownChainError(f"'{layer.name}' ({type(layer).__name__}) {why}.")


def _block(layer: Any, shape: tuple[int, int, int]) -> Block:
    """The block that begins with a linear layer, whose inputs have this shape."""
    if type(layer) is layers.Dense:
        reach, strides, padding, out = shape[:2], (1, 1), "valid", layer.units
    else:
        reach, strides, padding = layer.kernel_size, layer.strides, layer.padding
        out = layer.filters
    size, zeros = _slide(shape, reach, strides, padding)
    block = Block(layer, (*reach, shape[2], out), shape, (*size, out), strides, zeros)
    block.steps.append(ACTIVATIONS[layer.activation])
    return block


def _slide(shape: Any, reaches: Any, strides: Any, padding: str) -> tuple[Any, Any]:
    """How many places a window has on an image, vertical and horizontal, and the zeros around."""
    size, zeros = [], []
    for length, reach, stride in zip(shape[:2], reaches, strides, strict=True):
        is_same = padding == "same"
        size.append(-(-length // stride) if is_same else (length - reach) // stride + 1)
        missing = max(0, (size[-1] - 1) * stride + reach - length)
        zeros.append((missing // 2, missing - missing // 2))  # the odd one after
    return tuple(size), tuple(zeros)


def _step(layer: Any, shape: tuple[int, int, int]) -> tuple[Step, tuple[int, int, int]]:
    """A layer that keeps channels apart, and the shape after it."""
    match layer:
        case layers.BatchNormalization():
            return _normalization(layer), shape
        case layers.MaxPooling2D() | layers.AveragePooling2D():
            size, _ = _slide(shape, layer.pool_size, layer.strides, "valid")
            places = list(np.ndindex(*layer.pool_size))
            join = np.max if isinstance(layer, layers.MaxPooling2D) else np.mean

            def pool(x: np.ndarray, *_: Any) -> np.ndarray:
                return join([window(x, i, j, size, layer.strides) for i, j in places], axis=0)

            return pool, (*size, shape[2])
        case layers.LeakyReLU():
            return lambda x, *_: np.where(x > 0, x, layer.negative_slope * x), shape
        case layers.ReLU():
            return ACTIVATIONS[keras.activations.relu], shape
        case _:
            return ACTIVATIONS[layer.activation], shape


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
