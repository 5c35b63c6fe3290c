"""The layers of the paper's networks, and of one more, in the order of the data.

Each function is a network. It takes a source of layers and images, a tensor of shape (batch,
height, width, channels), and gives ten logits, shape (batch, 10). `networks.build` makes Keras
models of them.

References:
    Qiu and Suda, NeurIPS 2020, sections 5.1 (conv7), 5.2 and 5.4 (conv2, conv4, conv13, resnet50),
    5.5 (f1, f2), and the notebooks published with it.
    He et al., CVPR 2016 (ResNet); Simonyan and Zisserman, ICLR 2015 (VGG-16).
"""

import re
from collections import Counter
from typing import Any

import keras
from keras import layers

from laperm_lib._random import raw_bits
from laperm_lib.initializers import SeededInitializer
from laperm_lib.paper.fused import BatchNormalization

_L2 = 1e-4
WHITENING = "whitening"


class Layers:
    """Makes the layers of one network, numbered in the order of creation and seeded by name."""

    def __init__(
        self, seed: int, initializer: str, policy: keras.DTypePolicy, zero_biases: bool
    ) -> None:
        self._seed = seed
        self._initializer = initializer
        self.policy = policy
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
        kwargs.setdefault("dtype", self.policy)
        return layer_class(*args, name=name, **kwargs)

    def _values(self, stream: str) -> SeededInitializer:
        return SeededInitializer(self._initializer, self._seed, stream)


def _l2() -> keras.Regularizer:
    return keras.regularizers.L2(_L2)


def _classes(new: Layers, x: Any, use_bias: bool = True) -> Any:
    """The last layer: ten logits."""
    return new(layers.Dense, 10, use_bias=use_bias, dtype="float32")(x)


def f1(new: Layers, x: Any) -> Any:
    """One dense layer without bias: 7,840 weights."""
    return _classes(new, new(layers.Flatten)(x), use_bias=False)


def f2(new: Layers, x: Any) -> Any:
    """Three dense layers without biases."""
    x = new(layers.Flatten)(x)
    for units in (128, 64):
        hidden = {"activation": "relu", "use_bias": False, "kernel_regularizer": _l2()}
        x = new(layers.Dense, units, **hidden)(x)
    return _classes(new, x, use_bias=False)


def mlp(new: Layers, x: Any) -> Any:
    """Two dense layers without biases, 800 neurons between them; no network of the paper."""
    x = new(layers.Flatten)(x)
    x = new(layers.Dense, 800, activation="relu", use_bias=False)(x)
    return _classes(new, x, use_bias=False)


def conv7(new: Layers, x: Any) -> Any:
    """Seven convolutions: two stages 3-3-5 (the last with stride 2), then one 4 x 4."""
    for filters in (32, 64):
        x = new(layers.Conv2D, filters, 3, activation="relu")(x)
        x = new(layers.Conv2D, filters, 3, activation="relu")(x)
        x = new(layers.Conv2D, filters, 5, strides=2, padding="same", activation="relu")(x)
        x = new(layers.Dropout, 0.4)(x)
    x = new(layers.Conv2D, 128, 4, activation="relu")(x)
    x = new(layers.Dropout, 0.4)(new(layers.Flatten)(x))
    return _classes(new, x)


def conv6(new: Layers, x: Any, filters: tuple[int, int, int], activation: str = "gelu") -> Any:
    """A network made to train quickly, after airbench; no network of the paper.

    A fixed layer whitens patches of 2 x 2 pixels. Three blocks of two convolutions follow, pooled
    after the first. Normalisation stands for biases, and the logits are scaled down.
    """
    fixed = {"use_bias": False, "trainable": False, "kernel_initializer": "zeros"}
    both_signs = 2 * 2 * 2 * x.shape[-1]
    x = layers.Conv2D(both_signs, 2, **fixed, name=WHITENING, dtype=new.policy)(x)
    x = new(layers.Activation, activation)(x)
    for count in filters:
        for number in range(2):
            x = new(layers.Conv2D, count, 3, padding="same", use_bias=False)(x)
            if number == 0:
                x = new(layers.MaxPooling2D, 2)(x)
            x = new(BatchNormalization, momentum=0.9)(x)
            x = new(layers.Activation, activation)(x)
    x = new(layers.GlobalMaxPooling2D)(x)
    return new(layers.Rescaling, 1 / 9, dtype="float32")(_classes(new, x, use_bias=False))


def _vgg_blocks(new: Layers, x: Any, *blocks: tuple[int, int]) -> Any:
    """Blocks of (filters, convolutions), each ending in a pool.

    A convolution is followed by ReLU and batch normalisation, and by dropout unless it is the last
    of its block: .3 after the network's first, .4 after the others.
    """
    rate = 0.3
    for filters, convolutions in blocks:
        for number in range(convolutions):
            how = {"padding": "same", "activation": "relu", "kernel_regularizer": _l2()}
            x = new(layers.Conv2D, filters, 3, **how)(x)
            x = new(BatchNormalization)(x)
            if number < convolutions - 1:
                x = new(layers.Dropout, rate)(x)
                rate = 0.4
        x = new(layers.MaxPooling2D, 2)(x)
    return x


def _two_dense(new: Layers, x: Any) -> Any:
    """The dense part of conv2 and conv4; dropout and normalisation swap places on the way."""
    x = new(layers.Flatten)(x)
    x = new(layers.Dense, 256, activation="relu", kernel_regularizer=_l2())(x)
    x = new(layers.Dropout, 0.5)(x)
    x = new(BatchNormalization)(x)
    x = new(layers.Dense, 256, activation="relu", kernel_regularizer=_l2())(x)
    x = new(BatchNormalization)(x)
    x = new(layers.Dropout, 0.5)(x)
    return _classes(new, x)


def conv2(new: Layers, x: Any) -> Any:
    """The first block of VGG and two dense layers."""
    return _two_dense(new, _vgg_blocks(new, x, (64, 2)))


def conv4(new: Layers, x: Any) -> Any:
    """The first two blocks of VGG and two dense layers."""
    return _two_dense(new, _vgg_blocks(new, x, (64, 2), (128, 2)))


def conv13(new: Layers, x: Any) -> Any:
    """VGG-16 with one hidden dense layer."""
    x = _vgg_blocks(new, x, (64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    x = new(layers.Dropout, 0.5)(x)
    x = new(layers.Flatten)(x)
    x = new(layers.Dense, 512, activation="relu", kernel_regularizer=_l2())(x)
    x = new(BatchNormalization)(x)
    x = new(layers.Dropout, 0.5)(x)
    return _classes(new, x)


def resnet50(new: Layers, x: Any) -> Any:
    """Keras's CIFAR ResNet v1 of depth 6 n + 2 = 50: three stages of n = 8 residual blocks.

    The shortcut of a block that halves the image is a 1 x 1 convolution without normalisation. It
    is made last, which gives it its number in the published file.
    """

    def convolution(x: Any, filters: int, size: int = 3, strides: int = 1) -> Any:
        how = {"strides": strides, "padding": "same", "kernel_regularizer": _l2()}
        return new(layers.Conv2D, filters, size, **how)(x)

    x = new(BatchNormalization)(convolution(x, 16))
    x = new(layers.Activation, "relu")(x)
    for filters in (16, 32, 64):
        for block in range(8):
            strides = 2 if block == 0 and filters > 16 else 1
            y = new(BatchNormalization)(convolution(x, filters, strides=strides))
            y = new(layers.Activation, "relu")(y)
            y = new(BatchNormalization)(convolution(y, filters))
            if strides == 2:
                x = convolution(x, filters, size=1, strides=2)
            x = new(layers.Activation, "relu")(new(layers.Add)([x, y]))
    x = new(layers.Flatten)(new(layers.AveragePooling2D, 8)(x))
    return _classes(new, x)
