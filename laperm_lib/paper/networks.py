"""The networks of the paper, conv2, conv4, conv7, conv13, resnet50, f1 and f2, and one more.

The last, mlp, has dense layers 784-800-10 without biases; `laperm_lib.paper.studies.one_value` trains it.
Each is a functional Keras model that ends in a dense layer of ten logits without softmax, so train
it with `SparseCategoricalCrossentropy(from_logits=True)`. Layers are named as Keras would name them
in a fresh process (`conv2d`, `conv2d_1`, ..., `dense`), whatever else the process has built: the
names pick the streams of initial values and match the published weight files.

References:
    Qiu and Suda, NeurIPS 2020, section 5, and the notebooks published with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np

from laperm_lib._random import check_seed
from laperm_lib.paper import architectures
from laperm_lib.paper.datasets import Dataset

Pixels = Literal["unit", "raw", "centred", "standardised"]

PIXELS: tuple[Pixels, ...] = get_args(Pixels)
"""The ways to scale pixels. "unit" is 0..1, "raw" 0..255, "centred" 0..1 minus the mean training
image; "standardised" pixels have, over all training images, mean 0 and standard deviation 1."""


@dataclass(frozen=True)
class ModelSpec:
    """What one network is and wants.

    Args:
        name: the name for `build`.
        dataset: the dataset that it is trained on, a name for `laperm_lib.paper.datasets.load`.
        input_shape: (height, width, channels) of one image.
        pixels: the one of `PIXELS` that it is trained with; a network of the paper, as published.
        logits: the network as a function of a source of layers and an input tensor.
    """

    name: str
    dataset: str
    input_shape: tuple[int, int, int]
    pixels: Pixels
    logits: Callable[[architectures.Layers, Any], Any]


def build(
    name: str, *, seed: int, initializer: str = "he_uniform", dtype: str = "float32"
) -> keras.Model:
    """Build a network, with initial values that are the same bits everywhere.

    Kernels and biases come from `SeededInitializer` with the stream "layer/variable", as in
    "conv2d_1/kernel"; the biases of resnet50 start at zero. Dropout layers are seeded too, but
    their masks depend on the backend.

    Args:
        name: one of `names()`.
        seed: an integer of at least 0.
        initializer: "he_uniform" (the default, as published), "he_normal" or "glorot_uniform".
        dtype: Keras's name of a dtype policy, such as "mixed_bfloat16", in which weights are
            float32 and computed with in bfloat16. The last layer, whose logits the loss takes, is
            float32 always.

    Returns:
        A built functional model from images (n, height, width, channels), scaled as `preprocess`
        does, to logits (n, 10).

    Raises:
        ValueError: if the name, the initializer or the dtype policy is unknown, or the seed not an
            integer of at least 0.

    Examples:
        >>> model = build("f2", seed=0)
        >>> [layer.name for layer in model.layers]
        ['input', 'flatten', 'dense', 'dense_1', 'dense_2']
        >>> model.count_params()
        109184

    References:
        Qiu and Suda, NeurIPS 2020, section 5, and the published notebooks.
    """
    network = spec(name)
    policy = keras.dtype_policies.get(dtype)
    source = architectures.Layers(
        check_seed(seed), initializer, policy, zero_biases=name == "resnet50"
    )
    image = keras.Input(network.input_shape, name="input")
    return keras.Model(image, network.logits(source, image), name=name)


def names() -> tuple[str, ...]:
    """The names that `build` knows.

    Examples:
        >>> names()
        ('conv2', 'conv4', 'conv7', 'conv13', 'resnet50', 'f1', 'f2', 'mlp')
    """
    return tuple(_SPECS)


def spec(name: str) -> ModelSpec:
    """What a network is and wants.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> spec("conv7").dataset, spec("conv7").input_shape
        ('mnist', (28, 28, 1))
    """
    if name not in _SPECS:
        raise ValueError(f"Unknown model {name!r}; there are {', '.join(_SPECS)}.")
    return _SPECS[name]


def preprocess(
    name: str, dataset: Dataset, pixels: Pixels | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The images of a dataset as the published code feeds them to a network.

    conv7, f1 and f2 take pixels divided by 255, resnet50 and mlp the same minus the mean training
    image. conv2, conv4 and conv13 take raw pixels from 0 to 255: the published notebooks compute
    standardised images but return the unstandardised ones. `pixels="standardised"` gives those
    that they compute.

    Args:
        name: one of `names()`.
        dataset: images of the shape that the network takes, uint8 (n, height, width, channels).
        pixels: one of `PIXELS`. Default: that of the network's `spec`.

    Returns:
        `x_train` and `x_test`, float32, of the same shapes.

    Raises:
        ValueError: if the name or `pixels` is unknown, or the images have another shape.

    Examples:
        >>> from laperm_lib.paper import datasets
        >>> x_train, x_test = preprocess("f1", datasets.load("digits"))
        >>> x_train.shape, float(x_train.max())
        ((1437, 28, 28, 1), 1.0)
    """
    network = spec(name)
    shape = dataset.x_train.shape[1:]
    if shape != network.input_shape:
        raise ValueError(
            f"{name} takes images of shape {network.input_shape}, but those of {dataset.name} "
            f"have shape {shape}."
        )
    pixels = network.pixels if pixels is None else pixels
    if pixels not in PIXELS:
        raise ValueError(f"Unknown pixels {pixels!r}; there are {', '.join(PIXELS)}.")
    x_train, x_test = dataset.x_train.astype(np.float32), dataset.x_test.astype(np.float32)
    # Moments in float64: summing 50,000 float32 images one after the other loses digits.
    mean: Any = 0.0
    scale = 1.0 if pixels == "raw" else 255.0
    if pixels == "centred":
        mean = dataset.x_train.mean(axis=0, dtype=np.float64)
    elif pixels == "standardised":
        mean = dataset.x_train.mean(dtype=np.float64)
        scale = dataset.x_train.std(dtype=np.float64) + 1e-8
    for images in (x_train, x_test):
        images /= np.float32(scale)
        images -= np.asarray(mean / scale, np.float32)
    return x_train, x_test


_MNIST = ("mnist", (28, 28, 1))
_CIFAR = ("cifar10", (32, 32, 3))
_SPECS = {
    network.name: network
    for network in (
        ModelSpec("conv2", *_CIFAR, "raw", architectures.conv2),
        ModelSpec("conv4", *_CIFAR, "raw", architectures.conv4),
        ModelSpec("conv7", *_MNIST, "unit", architectures.conv7),
        ModelSpec("conv13", *_CIFAR, "raw", architectures.conv13),
        ModelSpec("resnet50", *_CIFAR, "centred", architectures.resnet50),
        ModelSpec("f1", *_MNIST, "unit", architectures.f1),
        ModelSpec("f2", *_MNIST, "unit", architectures.f2),
        ModelSpec("mlp", *_MNIST, "centred", architectures.mlp),
    )
}
