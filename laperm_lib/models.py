"""The networks of the paper: conv2, conv4, conv7, conv13, resnet50, f1 and f2.

Each is a functional Keras model that ends in a dense layer of ten logits without softmax, so train
it with `SparseCategoricalCrossentropy(from_logits=True)`. Layers are named as Keras would name them
in a fresh process (`conv2d`, `conv2d_1`, ..., `dense`), whatever else the process has built: the
names pick the streams of initial values and match the published weight files.

References:
    Qiu and Suda, NeurIPS 2020, sections 5.1 (conv7), 5.2 and 5.4 (conv2, conv4, conv13, resnet50),
    5.5 (f1, f2), and the notebooks published with it.
    He et al., CVPR 2016 (ResNet); Simonyan and Zisserman, ICLR 2015 (VGG-16).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from laperm_lib.datasets import Dataset
from laperm_lib.initializers import SeededInitializer, check_seed, raw_bits

Pixels = Literal["unit", "raw", "centred"]

_L2 = 1e-4


@dataclass(frozen=True)
class ModelSpec:
    """What one network is and wants.

    Args:
        name: the name for `build`.
        dataset: the dataset of the paper, a name for `laperm_lib.datasets.load`.
        input_shape: (height, width, channels) of one image.
        pixels: "unit" for 0..1, "raw" for 0..255, "centred" for 0..1 minus the mean training image.
        logits: the network as a function of a source of layers and an input tensor.
    """

    name: str
    dataset: str
    input_shape: tuple[int, int, int]
    pixels: Pixels
    logits: Callable[["_Layers", Any], Any]


def build(
    name: str, *, seed: int, initializer: str = "he_uniform", dtype: str = "float32"
) -> keras.Model:
    """Build a network of the paper, with initial values that are the same bits everywhere.

    Kernels and biases come from `SeededInitializer` with the stream "layer/variable", as in
    "conv2d_1/kernel"; the biases of resnet50 start at zero. Dropout layers are seeded too, but
    their masks depend on the backend.

    Args:
        name: one of `names()`.
        seed: an integer of at least 0.
        initializer: "he_uniform" (as published), "he_normal" or "glorot_uniform".
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
    source = _Layers(check_seed(seed), initializer, policy, zero_biases=name == "resnet50")
    image = keras.Input(network.input_shape, name="input")
    return keras.Model(image, network.logits(source, image), name=name)


def names() -> tuple[str, ...]:
    """The names that `build` knows.

    Examples:
        >>> names()
        ('conv2', 'conv4', 'conv7', 'conv13', 'resnet50', 'f1', 'f2')
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


def preprocess(name: str, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The images of a dataset as the published code feeds them to a network.

    MNIST networks take pixels divided by 255, resnet50 the same minus the mean training image.
    conv2, conv4 and conv13 take raw pixels from 0 to 255: the published notebooks compute
    standardised images but return the unstandardised ones, and their networks were trained so.

    Args:
        name: one of `names()`.
        dataset: images of the shape that the network takes, uint8 (n, height, width, channels).

    Returns:
        `x_train` and `x_test`, float32, of the same shapes.

    Raises:
        ValueError: if the name is unknown or the images have another shape.

    Examples:
        >>> from laperm_lib import datasets
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
    x_train, x_test = dataset.x_train.astype(np.float32), dataset.x_test.astype(np.float32)
    if network.pixels == "raw":
        return x_train, x_test
    x_train /= 255
    x_test /= 255
    if network.pixels == "centred":
        # In float64: summing 50,000 float32 images one after the other loses digits.
        mean = (dataset.x_train.mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
        x_train -= mean
        x_test -= mean
    return x_train, x_test


class _Layers:
    """Makes the layers of one network, numbered in the order of creation and seeded by name."""

    def __init__(
        self, seed: int, initializer: str, policy: keras.DTypePolicy, zero_biases: bool
    ) -> None:
        self._seed = seed
        self._initializer = initializer
        self._policy = policy
        self._zero_biases = zero_biases
        self._made: Counter[str] = Counter()

    def __call__(self, layer_class: type[keras.Layer], *args: Any, **kwargs: Any) -> keras.Layer:
        """A layer of the class, as `layer_class(*args, **kwargs)` with its name and seeds."""
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", layer_class.__name__).lower()
        name = f"{kind}_{self._made[kind]}" if self._made[kind] else kind
        self._made[kind] += 1
        if layer_class in (layers.Conv2D, layers.Dense):
            kwargs["kernel_initializer"] = self._values(f"{name}/kernel")
            kwargs["bias_initializer"] = (
                "zeros" if self._zero_biases else self._values(f"{name}/bias")
            )
        elif layer_class is layers.Dropout:
            # Keras wants 32-bit seeds.
            kwargs["seed"] = int(raw_bits(self._seed, f"{name}/seed").random_raw()) >> 33
        kwargs.setdefault("dtype", self._policy)
        return layer_class(*args, name=name, **kwargs)

    def _values(self, stream: str) -> SeededInitializer:
        return SeededInitializer(self._initializer, self._seed, stream)


def _l2() -> keras.Regularizer:
    return keras.regularizers.L2(_L2)


def _classes(new: _Layers, x: Any, use_bias: bool = True) -> Any:
    """The last layer: ten logits."""
    return new(layers.Dense, 10, use_bias=use_bias, dtype="float32")(x)


def _f1(new: _Layers, x: Any) -> Any:
    """One dense layer without bias: 7,840 weights."""
    return _classes(new, new(layers.Flatten)(x), use_bias=False)


def _f2(new: _Layers, x: Any) -> Any:
    """Three dense layers without biases."""
    x = new(layers.Flatten)(x)
    for units in (128, 64):
        hidden = {"activation": "relu", "use_bias": False, "kernel_regularizer": _l2()}
        x = new(layers.Dense, units, **hidden)(x)
    return _classes(new, x, use_bias=False)


def _conv7(new: _Layers, x: Any) -> Any:
    """Seven convolutions: two stages 3-3-5 (the last with stride 2), then one 4 x 4."""
    for filters in (32, 64):
        x = new(layers.Conv2D, filters, 3, activation="relu")(x)
        x = new(layers.Conv2D, filters, 3, activation="relu")(x)
        x = new(layers.Conv2D, filters, 5, strides=2, padding="same", activation="relu")(x)
        x = new(layers.Dropout, 0.4)(x)
    x = new(layers.Conv2D, 128, 4, activation="relu")(x)
    x = new(layers.Dropout, 0.4)(new(layers.Flatten)(x))
    return _classes(new, x)


def _vgg_blocks(new: _Layers, x: Any, *blocks: tuple[int, int]) -> Any:
    """Blocks of (filters, convolutions), each ending in a pool.

    A convolution is followed by ReLU and batch normalisation, and by dropout unless it is the last
    of its block: .3 after the network's first, .4 after the others.
    """
    rate = 0.3
    for filters, convolutions in blocks:
        for number in range(convolutions):
            x = new(
                layers.Conv2D,
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_regularizer=_l2(),
            )(x)
            x = new(layers.BatchNormalization)(x)
            if number < convolutions - 1:
                x = new(layers.Dropout, rate)(x)
                rate = 0.4
        x = new(layers.MaxPooling2D, 2)(x)
    return x


def _two_dense(new: _Layers, x: Any) -> Any:
    """The dense part of conv2 and conv4; dropout and normalisation swap places on the way."""
    x = new(layers.Flatten)(x)
    x = new(layers.Dense, 256, activation="relu", kernel_regularizer=_l2())(x)
    x = new(layers.Dropout, 0.5)(x)
    x = new(layers.BatchNormalization)(x)
    x = new(layers.Dense, 256, activation="relu", kernel_regularizer=_l2())(x)
    x = new(layers.BatchNormalization)(x)
    x = new(layers.Dropout, 0.5)(x)
    return _classes(new, x)


def _conv2(new: _Layers, x: Any) -> Any:
    return _two_dense(new, _vgg_blocks(new, x, (64, 2)))


def _conv4(new: _Layers, x: Any) -> Any:
    return _two_dense(new, _vgg_blocks(new, x, (64, 2), (128, 2)))


def _conv13(new: _Layers, x: Any) -> Any:
    """VGG-16 with one hidden dense layer."""
    x = _vgg_blocks(new, x, (64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    x = new(layers.Dropout, 0.5)(x)
    x = new(layers.Flatten)(x)
    x = new(layers.Dense, 512, activation="relu", kernel_regularizer=_l2())(x)
    x = new(layers.BatchNormalization)(x)
    x = new(layers.Dropout, 0.5)(x)
    return _classes(new, x)


def _resnet50(new: _Layers, x: Any) -> Any:
    """Keras's CIFAR ResNet v1 of depth 6 n + 2 = 50: three stages of n = 8 residual blocks.

    The shortcut of a block that halves the image is a 1 x 1 convolution without normalisation. It
    is made last, which gives it its number in the published file.
    """

    def convolution(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        return new(
            layers.Conv2D,
            filters,
            size,
            strides=strides,
            padding="same",
            kernel_regularizer=_l2(),
        )(x)

    x = new(layers.BatchNormalization)(convolution(x, 16))
    x = new(layers.Activation, "relu")(x)
    for filters in (16, 32, 64):
        for block in range(8):
            strides = 2 if block == 0 and filters > 16 else 1
            y = new(layers.BatchNormalization)(convolution(x, filters, strides=strides))
            y = new(layers.Activation, "relu")(y)
            y = new(layers.BatchNormalization)(convolution(y, filters))
            if strides == 2:
                x = convolution(x, filters, size=1, strides=2)
            x = new(layers.Activation, "relu")(new(layers.Add)([x, y]))
    x = new(layers.Flatten)(new(layers.AveragePooling2D, 8)(x))
    return _classes(new, x)


_MNIST = ("mnist", (28, 28, 1))
_CIFAR = ("cifar10", (32, 32, 3))
_SPECS = {
    network.name: network
    for network in (
        ModelSpec("conv2", *_CIFAR, "raw", _conv2),
        ModelSpec("conv4", *_CIFAR, "raw", _conv4),
        ModelSpec("conv7", *_MNIST, "unit", _conv7),
        ModelSpec("conv13", *_CIFAR, "raw", _conv13),
        ModelSpec("resnet50", *_CIFAR, "centred", _resnet50),
        ModelSpec("f1", *_MNIST, "unit", _f1),
        ModelSpec("f2", *_MNIST, "unit", _f2),
    )
}
