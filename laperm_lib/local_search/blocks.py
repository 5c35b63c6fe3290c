"""A chain of Keras layers in NumPy, taken apart into blocks that keep channels apart.

A block is one linear layer, `Dense` or `Conv2D`, and what follows it up to the next: activations,
pooling, batch normalisation. Only the linear layer mixes channels. So a change to one of its
weights, to a bias or to a normalisation parameter touches one output channel of its block, and
`cached_losses` need not compute the others.

Arrays are (samples, height, width, channels). A dense layer behind `Flatten` is a convolution as
large as its input, and one behind a vector a convolution of 1 x 1, so there is one kind of linear
layer here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from laperm_lib._numba import available, compiled

Parameters = Mapping[int, np.ndarray]
"""The values of variables by the variable's id; those of a step have shape (channels,)."""

Step = Callable[[np.ndarray, Parameters, Any], np.ndarray]
# A part of a block that keeps channels apart. It takes an array (samples, height, width, channels),
# the parameters, and which channels these are (an index).


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "tanh": np.tanh,
}
"""The activations that a chain may have, by Keras's name."""


@dataclass(frozen=True, eq=False)
class Block:
    """One linear layer and what follows it.

    Args:
        layer: the `Dense` or `Conv2D` layer.
        kernel_shape: (height, width, in, out).
        input_shape: (height, width, channels).
        output_shape: (height, width, channels) of the linear layer.
        strides: vertical and horizontal.
        padding: rows above and columns to the left of the input that are taken for zeros.
        steps: what follows, in order.
        normalizations: the batch normalisations among the steps.
    """

    layer: keras.Layer
    kernel_shape: tuple[int, int, int, int]
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    steps: list[Step] = field(default_factory=list)
    normalizations: list[keras.layers.BatchNormalization] = field(default_factory=list)

    def kernel(self, parameters: Parameters) -> np.ndarray:
        """The kernel, shape `kernel_shape`."""
        return parameters[id(self.layer.kernel)].reshape(self.kernel_shape)

    def start(self, samples: int, parameters: Parameters) -> np.ndarray:
        """What the linear layer gives for zeros, a new array `(samples, *output_shape)`."""
        dtype = parameters[id(self.layer.kernel)].dtype
        z = np.zeros((samples, *self.output_shape), dtype)
        if self.layer.use_bias:
            z += parameters[id(self.layer.bias)]
        return z

    def add_linear(self, inputs: np.ndarray, kernel: np.ndarray, z: np.ndarray) -> None:
        """Add to `z` what the linear layer, which has no bias here, gives for the inputs.

        Args:
            inputs: all input channels, or some; contiguous.
            kernel: the kernel of these channels.
            z: shape `(samples, *output_shape)`, written to.
        """
        if self.output_shape[:2] == (1, 1) and kernel.shape[:2] == inputs.shape[1:3]:
            z.reshape(len(z), -1)[:] += inputs.reshape(len(z), -1) @ kernel.reshape(-1, z.shape[-1])
        elif available:
            _scatter(inputs, np.ascontiguousarray(kernel), z, *self.strides, *self.padding)
        else:
            add_convolution(inputs, kernel, z, self.strides, self.padding)

    def apply_steps(
        self, z: np.ndarray, parameters: Parameters, channels: Any = slice(None)
    ) -> np.ndarray:
        """What the block gives, from what its linear layer gives, for some channels."""
        for step in self.steps:
            z = step(z, parameters, channels)
        return z


def add_convolution(
    inputs: np.ndarray,
    kernel: np.ndarray,
    z: np.ndarray,
    strides: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    """Add a convolution of the inputs to `z`, without Numba.

    Args:
        inputs: shape (samples, height, width, in).
        kernel: shape (height, width, in, out).
        z: shape (samples, height, width, out), written to.
        strides: vertical and horizontal.
        padding: rows above and columns to the left that are taken for zeros.
    """
    _, rows, columns, _ = z.shape
    padded = pad(inputs, kernel.shape[:2], (rows, columns), strides, padding)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            z += window(padded, i, j, (rows, columns), strides) @ kernel[i, j]


def pad(
    inputs: np.ndarray,
    kernel_size: tuple[int, ...],
    output_size: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int],
) -> np.ndarray:
    """Zeros around the inputs, as many as the kernel reaches over; axes 1 and 2 are the image's."""
    widths = [(0, 0), (0, 0), (0, 0), (0, 0)]
    for axis in (0, 1):
        reach = (output_size[axis] - 1) * strides[axis] + kernel_size[axis]
        behind = max(0, reach - padding[axis] - inputs.shape[1 + axis])
        widths[1 + axis] = (padding[axis], behind)
    return np.pad(inputs, widths)


def window(
    padded: np.ndarray, i: int, j: int, output_size: tuple[int, int], strides: tuple[int, int]
) -> np.ndarray:
    """What the weight in row i and column j of a kernel is multiplied with, a view."""
    (rows, columns), (down, right) = output_size, strides
    return padded[
        :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right
    ]


@compiled()
def _scatter(inputs, kernel, z, down, right, top, left):  # type: ignore[no-untyped-def]
    """`add_convolution`, from the inputs that are not zero to the outputs that they reach.

    Input row h meets kernel row i = h + top - row * down for output row `row`.
    """
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
                            i = h + top - row * down
                            for column in range(first_column, last_column + 1):
                                j = w + left - column * right
                                for k in range(out):
                                    z[n, row, column, k] += value * kernel[i, j, c, k]
