r"""Networks of the same capacity: a narrow dense one, and a wide one with as many active weights.

"The same initial distribution", which such a comparison asks for, is taken at its word here: each
kernel of the sparse network holds the very values of the dense one, at random places of a wider
array. Trained by LaPerm the two then are arrangements of the same numbers.

References:
    Tessera, Hooker and Rosman, "Keep the gradients flowing: using gradient flow to study sparse
    network optimization", 2021, arXiv:2102.01670.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers

from laperm_lib import weight_vectors
from laperm_lib._arguments import check_integer, check_number
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.initializers import SeededInitializer
from laperm_lib.permutation import from_matrix
from laperm_lib.sparsity import LayerSparsity, SparsityReport

_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A classifier of images in ten classes, without biases: its weights are those of its kernels.

    Args:
        filters: of each 5 x 5 convolution with stride 2, in order.
        units: the neurons of each hidden dense layer behind them.
        activation: "relu", "swish" or "prelu" (whose slopes start at 0.25).
        batch_norm: whether batch normalisation comes before each activation.
        l2: the factor of an L2 penalty on all kernels.

    Raises:
        ValueError: for a size below 1, another activation, or a negative penalty.
    """

    filters: tuple[int, ...] = ()
    units: tuple[int, ...] = ()
    activation: str = "relu"
    batch_norm: bool = False
    l2: float = 0.0

    def __post_init__(self) -> None:
        for size in (*self.filters, *self.units):
            check_integer("Each of filters and units", size, at_least=1)
        if self.activation not in ("relu", "swish", "prelu"):
            raise ValueError(f"activation is relu, swish or prelu, got {self.activation!r}.")
        check_number("l2", self.l2, at_least=0)

    def widened(self, factor: int) -> "Architecture":
        """The same with `factor` times as many filters and neurons in every hidden layer."""
        filters = tuple(factor * size for size in self.filters)
        return replace(self, filters=filters, units=tuple(factor * size for size in self.units))

    def build(self, input_shape: Sequence[int], *, seed: int) -> keras.Sequential:
        """The network with He-uniform weights.

        Args:
            input_shape: (height, width, channels) of an image.
            seed: an integer of at least 0, for the weights.

        Examples:
            >>> model = Architecture(units=(32,), batch_norm=True).build((8, 8, 1), seed=0)
            >>> [layer.name for layer in model.layers]
            ['flatten', 'dense', 'normalise', 'activate', 'logits']
        """

        def how(name: str) -> dict[str, Any]:
            values = SeededInitializer("he_uniform", seed, f"{name}/kernel")
            penalty = keras.regularizers.L2(self.l2) if self.l2 else None
            return {
                "name": name,
                "use_bias": False,
                "kernel_initializer": values,
                "kernel_regularizer": penalty,
            }

        def behind(number: str, places: Sequence[int]) -> list[keras.Layer]:
            normalise = [layers.BatchNormalization(name=f"normalise{number}")]
            name = f"activate{number}"
            if self.activation == "prelu":
                slopes = keras.initializers.Constant(0.25)
                activate = layers.PReLU(slopes, shared_axes=places or None, name=name)
            else:
                activate = layers.Activation(self.activation, name=name)
            return [*(normalise if self.batch_norm else []), activate]

        stack: list[keras.Layer] = []
        for place, size in enumerate(self.filters):
            number = f"_{place}" if place else ""
            stack.append(layers.Conv2D(size, 5, strides=2, **how(f"conv{number}")))
            stack += behind(f"_conv{number}", [1, 2])
        stack.append(layers.Flatten(name="flatten"))
        for place, size in enumerate(self.units):
            number = f"_{place}" if place else ""
            stack.append(layers.Dense(size, **how(f"dense{number}")))
            stack += behind(number, [])
        stack.append(layers.Dense(_CLASSES, **how("logits")))
        return keras.Sequential([keras.Input(tuple(input_shape)), *stack])


def fill_sparsely(
    wide: keras.Model, dense: keras.Model, *, seed: int, rescaled: bool = False
) -> SparsityReport:
    r"""Give a wide network the kernel values of a dense one at random places, and zeros elsewhere.

    Every kernel then has as many active weights as that of the dense network, and the same initial
    values. But a neuron has fewer of them than in the dense network, so its input is smaller than
    He's initialisation means it to be. With `rescaled` the values of a kernel are multiplied by
    :math:`\sqrt{N_\text{wide} / N_\text{dense}}`, for N neurons; then the variance of its neurons'
    inputs is that of the dense network, for inputs of the same size.

    Args:
        wide: a built model; its kernels are changed in place, nothing else is.
        dense: a built model with as many kernels, each with no more weights.
        seed: an integer of at least 0, for the places.
        rescaled: as above. Default False, as published.

    Returns:
        What is pruned, as `laperm_lib.sparsity.random_prune` says it.

    Raises:
        ValueError: if a model is not built, the seed is not an integer of at least 0, or the
            kernels do not fit; nothing is changed then.

    Examples:
        >>> narrow = Architecture(units=(8, 8))
        >>> dense = narrow.build((4, 4, 1), seed=0)
        >>> wide = narrow.widened(4).build((4, 4, 1), seed=0)
        >>> [(layer.kept, layer.total) for layer in fill_sparsely(wide, dense, seed=0).layers]
        [(128, 512), (64, 1024), (80, 320)]
    """
    check_seed(seed)
    places_for, given = weight_vectors.of(wide), weight_vectors.of(dense)
    if len(places_for) != len(given) or not given:
        raise ValueError(f"{len(given)} kernels do not go into {len(places_for)}.")
    kernels, reports = [], []
    for number, (other, one) in enumerate(zip(places_for, given, strict=True)):
        values, zeros = one.matrix(), np.zeros_like(other.matrix())
        if values.size > zeros.size:
            raise ValueError(f"{values.size} weights do not go into '{other.path}'.")
        scale = math.sqrt(len(zeros) / len(values)) if rescaled else 1
        # 64 random bits a place: ties do not happen.
        keys = raw_bits(seed, f"active {number}").random_raw(zeros.size)
        places = np.argsort(keys, kind="stable")[: values.size]
        zeros.flat[places] = values.ravel() * values.dtype.type(scale)
        kernels.append(from_matrix(zeros, tuple(other.variable.shape), other.neuron_axes))
        reports.append(LayerSparsity(other.path, zeros.size, values.size))
    for other, kernel in zip(places_for, kernels, strict=True):
        other.variable.assign(kernel)
    return SparsityReport(tuple(reports))
