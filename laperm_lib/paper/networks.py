"""The networks that are trained, each described by what decides its initial weights to the bit.

`build` makes those of the paper (conv2, conv4, conv7, conv13, resnet50, f1, f2) and mlp, dense
layers 784-800-10 without biases. Each ends in ten logits without softmax, so train it with
`SparseCategoricalCrossentropy(from_logits=True)`. Layers are named as Keras would name them in a
fresh process (`conv2d`, `conv2d_1`, ..., `dense`): the names pick the streams of initial values and
match the published weight files.

References:
    Qiu and Suda, NeurIPS 2020, section 5, and the notebooks published with it.
    Tessera, Hooker and Rosman, arXiv 2102.01670 (networks of the same capacity).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, get_args

import keras
import numpy as np
from keras import layers

from laperm_lib import sparsity, weight_vectors
from laperm_lib._arguments import check_integer, check_name
from laperm_lib._random import check_seed, random_order
from laperm_lib.initializers import SeededInitializer, check_distribution
from laperm_lib.paper import architectures
from laperm_lib.paper._fields import INT32, Count, NonNegative, Share, check_fields
from laperm_lib.paper.datasets import Dataset
from laperm_lib.permutation import from_matrix
from laperm_lib.sparsity import LayerSparsity, SparsityReport

Pixels = Literal["unit", "raw", "centred", "standardised"]
PIXELS: tuple[Pixels, ...] = get_args(Pixels)
"""The ways to scale pixels: "unit" is 0..1, "raw" 0..255, "centred" 0..1 minus the mean training
image; "standardised" pixels have mean 0 and standard deviation 1 over all training images."""

_WHITENING_IMAGES = 5000
_WHITENING_EPSILON = 5e-4

PRECISIONS = ("float32", "mixed_bfloat16")
"""The dtype policies of Keras to train with; weights are float32 in both."""


class Spec(NamedTuple):
    """What a network is trained on: dataset, (height, width, channels), and pixels as published."""

    dataset: str
    input_shape: tuple[int, int, int]
    pixels: Pixels


_MNIST = Spec("mnist", (28, 28, 1), "unit")
_CIFAR10 = Spec("cifar10", (32, 32, 3), "raw")
_STANDARDISED = _CIFAR10._replace(pixels="standardised")
_PAPER: dict[str, tuple[Spec, Callable[[architectures.Layers, Any], Any]]] = {
    "conv2": (_CIFAR10, architectures.conv2),
    "conv4": (_CIFAR10, architectures.conv4),
    "conv7": (_MNIST, architectures.conv7),
    "conv13": (_CIFAR10, architectures.conv13),
    "resnet50": (_CIFAR10._replace(pixels="centred"), architectures.resnet50),
    "f1": (_MNIST, architectures.f1),
    "f2": (_MNIST, architectures.f2),
    "mlp": (_MNIST._replace(pixels="centred"), architectures.mlp),
    "conv6_32": (_STANDARDISED, partial(architectures.conv6, filters=(32, 64, 64))),
    "conv6_64": (_STANDARDISED, partial(architectures.conv6, filters=(64, 128, 256))),
    "conv6_64_silu": (
        _STANDARDISED,
        partial(architectures.conv6, filters=(64, 128, 256), activation="silu"),
    ),
    "conv6_64_relu": (
        _STANDARDISED,
        partial(architectures.conv6, filters=(64, 128, 256), activation="relu"),
    ),
    "conv6_mnist": (
        _MNIST._replace(pixels="standardised"),
        partial(architectures.conv6, filters=(32, 64, 128)),
    ),
}


def names() -> tuple[str, ...]:
    """The names that `build` knows.

    Examples:
        >>> names()[:7]
        ('conv2', 'conv4', 'conv7', 'conv13', 'resnet50', 'f1', 'f2')
    """
    return tuple(_PAPER)


def spec(name: str) -> Spec:
    """The dataset, input shape and pixels of a network of the paper.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> spec("conv7")
        Spec(dataset='mnist', input_shape=(28, 28, 1), pixels='unit')
    """
    check_name("model", name, _PAPER)
    return _PAPER[name][0]


def build(
    name: str, *, seed: int, initializer: str = "he_uniform", dtype: str = "float32"
) -> keras.Model:
    """Build a network of the paper, with initial values that are the same bits everywhere.

    Kernels and biases come from `SeededInitializer` with the stream "layer/variable", as in
    "conv2d_1/kernel"; the biases of resnet50 start at zero. Dropout is seeded too, but its masks
    depend on the backend.

    Args:
        name: one of `names()`.
        seed: an integer of at least 0.
        initializer: "he_uniform" (the default, as published), or another of `SeededInitializer`.
        dtype: a dtype policy of Keras; weights and logits are float32 with "mixed_bfloat16" too.

    Returns:
        A built functional model from images (n, height, width, channels), scaled as `preprocess`
        does, to logits (n, 10).

    Raises:
        ValueError: if an argument is unknown or impossible.

    Examples:
        >>> build("f1", seed=0).count_params()
        7840
    """
    image = keras.Input(spec(name).input_shape, name="input")
    new = architectures.Layers(
        check_seed(seed),
        initializer,
        keras.dtype_policies.get(dtype),
        zero_biases=name == "resnet50",
    )
    return keras.Model(image, _PAPER[name][1](new, image), name=name)


def whiten(model: keras.Model, images: np.ndarray) -> None:
    """Set the fixed layer of conv6, if this is one, for images (n, height, width, channels).

    Its filters are the eigenvectors of the covariance of all patches, each divided by the root of
    its eigenvalue, and their opposites: what they give has variance 1, and no correlation.
    """
    names = [layer.name for layer in model.layers]
    if architectures.WHITENING not in names:
        return
    kernel = model.get_layer(architectures.WHITENING).kernel
    height, width, channels, _ = kernel.shape
    patches = np.lib.stride_tricks.sliding_window_view(
        images[:_WHITENING_IMAGES], (height, width, channels), axis=(1, 2, 3)
    ).reshape(-1, height * width * channels)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False, dtype=np.float64))
    # LAPACK leaves the sign open.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(values))])
    filters = vectors * signs / np.sqrt(values + _WHITENING_EPSILON)
    kernel.assign(np.concatenate([filters, -filters], axis=1).reshape(kernel.shape))


def preprocess(
    name: str, dataset: Dataset, pixels: Pixels | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The training and test images of a dataset as the published code feeds them to a network.

    Args:
        name: one of `names()`.
        dataset: with images of the network's input shape.
        pixels: one of `PIXELS`. Default: as published for the network.

    Returns:
        Two float32 arrays (n, height, width, channels).

    Raises:
        ValueError: if the images have another shape, or the pixels are unknown.

    Examples:
        >>> from laperm_lib.paper import datasets
        >>> x_train, x_test = preprocess("f1", datasets.load("digits", shape=(28, 28, 1)))
        >>> float(x_train.max())
        1.0
    """
    shape, wanted = dataset.x_train.shape[1:], spec(name).input_shape
    if shape != wanted:
        raise ValueError(
            f"{name} takes images of shape {wanted}, but those of {dataset.name} have {shape}."
        )
    return scale_pixels(dataset, spec(name).pixels if pixels is None else pixels)


def scale_pixels(dataset: Dataset, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """The images as float32, (training, test), with pixels scaled in one of the `PIXELS` ways."""
    check_name("pixels", pixels, PIXELS)
    # Moments in float64: summing 50,000 float32 images one after the other loses digits.
    mean: Any = 0.0
    scale = 1.0 if pixels == "raw" else 255.0
    if pixels == "centred":
        mean = dataset.x_train.mean(axis=0, dtype=np.float64)
    elif pixels == "standardised":
        mean = dataset.x_train.mean(dtype=np.float64)
        scale = dataset.x_train.std(dtype=np.float64) + 1e-8
    scaled = dataset.x_train.astype(np.float32), dataset.x_test.astype(np.float32)
    for images in scaled:
        images /= np.float32(scale)
        images -= np.asarray(mean / scale, np.float32)
    return scaled


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network before its first training step: the base of the four kinds below.

    Subclasses have a `spec` and `build(seed)`, which gives the model and what of it is pruned.
    """

    precision: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        check_name("precision", self.precision, PRECISIONS)

    @property
    def spec(self) -> Spec:
        return _MNIST

    def build(self, seed: int) -> tuple[keras.Model, SparsityReport]:
        """Build the network, and say what of it is pruned.

        Examples:
            >>> model, report = PaperNetwork(model="f1", pruned=0.5).build(seed=0)
            >>> round(report.fraction_pruned, 1)  # the first kernel keeps 80 %
            0.2
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Sparse(Network):
    """A network that may start with one value for all weights, or with some of them pruned."""

    pruned: Share = 0.0
    shared_value: float | None = None
    keep: tuple[Share, ...] = ()
    constant_fan_in: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.shared_value is None) != (not self.keep):
            raise ValueError("shared_value and keep are given together or not at all.")
        if self.shared_value is not None and self.pruned:
            raise ValueError("With a shared value, keep says what is pruned; pruned is 0.")
        if self.constant_fan_in and self.shared_value is None:
            raise ValueError("constant_fan_in is for networks with a shared value.")

    def build(self, seed: int) -> tuple[keras.Model, SparsityReport]:
        """Build the network; the same bits for the same description and seed."""
        model = self._dense_model(check_seed(seed))
        if self.shared_value is None:
            return model, sparsity.random_prune(model, self.pruned, seed=seed)
        return model, sparsity.agnosticize(
            model, self.shared_value, self.keep, seed=seed, constant_fan_in=self.constant_fan_in
        )

    def _dense_model(self, seed: int) -> keras.Model:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PaperNetwork(_Sparse):
    """A network of the paper, by name.

    Args:
        model: one of `names()`.
        initializer: "he_uniform" (the default), or another of `SeededInitializer`.
        pruned: the fraction of kernel weights that `sparsity.random_prune` sets to zero. Default 0.
        shared_value: the one value that every kept weight starts with. Default: they differ.
        keep: with a shared value, the keep probability of each kernel.
        constant_fan_in: with a shared value, every neuron of a layer keeps equally many weights.
        precision: one of `PRECISIONS`. Default "float32".

    Examples:
        >>> f1 = PaperNetwork(model="f1", shared_value=0.08, keep=(0.6,))
        >>> model, report = f1.build(seed=0)
        >>> print(f"{report.fraction_pruned:.1%}")
        40.4%
    """

    model: str
    initializer: str = "he_uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        spec(self.model)
        check_distribution(self.initializer)

    @property
    def spec(self) -> Spec:
        return spec(self.model)

    def _dense_model(self, seed: int) -> keras.Model:
        return build(self.model, seed=seed, initializer=self.initializer, dtype=self.precision)


@keras.saving.register_keras_serializable(package="laperm_lib")
class WholeDense(layers.Dense):
    """A dense layer whose kernel is one weight vector: a weight may move to another neuron."""


weight_vectors.register(
    WholeDense, {"kernel": weight_vectors.Axes(()), "bias": weight_vectors.Axes((), "bias")}
)


@dataclass(frozen=True, kw_only=True)
class DenseNetwork(_Sparse):
    """Dense layers whose weights share one value, for images of 28 x 28. The default is F1."""

    hidden: tuple[Count, ...] = ()  # the neurons of each hidden layer
    bias: bool = False  # whether layers have biases, which start at zero
    whole: bool = False  # whether a kernel is one weight vector rather than one for each neuron
    l2: NonNegative = 0.0  # the penalty on the kernels of hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.keep) != len(self.hidden) + 1:
            raise ValueError(f"{len(self.keep)} probabilities for {len(self.hidden) + 1} layers.")

    def _dense_model(self, seed: int) -> keras.Model:
        dense = WholeDense if self.whole else layers.Dense
        model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
        for units in self.hidden:
            penalty = keras.regularizers.L2(self.l2)
            model.add(dense(units, "relu", use_bias=self.bias, kernel_regularizer=penalty))
        model.add(dense(10, use_bias=self.bias))
        return model


@dataclass(frozen=True, kw_only=True)
class SmallConvNetwork(Network):
    """Two 3 x 3 convolutions of stride 2 and a dense layer, He-normal, with biases of zero."""

    filters: tuple[Count, Count] = (8, 16)
    input_shape: tuple[Count, Count, Count] = (28, 28, 1)

    @property
    def spec(self) -> Spec:
        return _MNIST._replace(input_shape=self.input_shape)

    def build(self, seed: int) -> tuple[keras.Model, SparsityReport]:
        def values(name: str) -> dict[str, Any]:
            kernel = SeededInitializer("he_normal", seed, f"{name}/kernel")
            return {"name": name, "kernel_initializer": kernel}

        model = keras.Sequential([keras.Input(self.input_shape)], name="small_conv")
        how = {"strides": 2, "padding": "same", "activation": "relu"}
        for number, filters in enumerate(self.filters):
            model.add(layers.Conv2D(filters, 3, **values(f"conv_{number}"), **how))
        model.add(layers.Flatten())
        model.add(layers.Dense(10, **values("dense")))
        return model, sparsity.random_prune(model, 0.0, seed=seed)


@dataclass(frozen=True, kw_only=True)
class SameCapacityNetwork(Network):
    r"""One side of a comparison of networks with equally many active weights, without biases.

    A wide network gets the kernel values of a narrow dense one at random places, zeros elsewhere:
    as many active weights in every layer, from the same distribution. A neuron of it has
    :math:`\sqrt{n_\text{wide} / n}` times fewer connections, which `rescaled` makes up for.

    References:
        Tessera, Hooker and Rosman, arXiv 2102.01670, section 3.
    """

    filters: tuple[Count, ...] = ()  # of each 5 x 5 convolution of stride 2, if it is narrow
    units: tuple[Count, ...] = ()  # of each hidden dense layer, if it is narrow
    activation: Literal["relu", "swish", "prelu"] = "relu"
    batch_norm: bool = False  # whether hidden layers are normalised
    l2: NonNegative = 0.0  # the penalty on all kernels
    # The narrow network, or one of two wide ones, and how many times as wide those are.
    capacity: Literal["dense", "sparse", "rescaled"] = "dense"
    factor: Annotated[int, partial(check_integer, at_least=2, at_most=INT32)] = 4

    def build(self, seed: int) -> tuple[keras.Model, SparsityReport]:
        dense = self._model(seed, 1)
        if self.capacity == "dense":
            return dense, sparsity.random_prune(dense, 0.0, seed=seed)
        wide = self._model(seed, self.factor)
        return wide, fill_sparsely(wide, dense, seed=seed, rescaled=self.capacity == "rescaled")

    def _model(self, seed: int, width: int) -> keras.Sequential:
        def kernel(name: str) -> dict[str, Any]:
            return {
                "name": name,
                "use_bias": False,
                "kernel_initializer": SeededInitializer("he_uniform", seed, f"{name}/kernel"),
                "kernel_regularizer": keras.regularizers.L2(self.l2) if self.l2 else None,
            }

        def activate(model: keras.Sequential, shared_axes: Sequence[int] | None) -> None:
            if self.batch_norm:
                model.add(layers.BatchNormalization())
            if self.activation == "prelu":
                slopes = keras.initializers.Constant(0.25)
                model.add(layers.PReLU(slopes, shared_axes=shared_axes))
            else:
                model.add(layers.Activation(self.activation))

        model = keras.Sequential([keras.Input(self.spec.input_shape)])
        for place, size in enumerate(self.filters):
            name = f"conv_{place}" if place else "conv"
            model.add(layers.Conv2D(width * size, 5, strides=2, **kernel(name)))
            activate(model, [1, 2])
        model.add(layers.Flatten())
        for place, size in enumerate(self.units):
            name = f"dense_{place}" if place else "dense"
            model.add(layers.Dense(width * size, **kernel(name)))
            activate(model, None)
        model.add(layers.Dense(10, **kernel("logits")))
        return model


def fill_sparsely(
    wide: keras.Model, dense: keras.Model, *, seed: int, rescaled: bool = False
) -> SparsityReport:
    """Give a wide network the kernel values of a dense one at random places, zeros elsewhere."""
    wanted, given = weight_vectors.of(wide), weight_vectors.of(dense)
    if len(wanted) != len(given) or not given:
        raise ValueError(f"{len(given)} kernels do not go into {len(wanted)}.")
    kernels, reports = [], []
    for number, (other, one) in enumerate(zip(wanted, given, strict=True)):
        values, sparse = one.matrix(), np.zeros_like(other.matrix())
        if values.size > sparse.size:
            raise ValueError(f"{values.size} weights do not go into '{other.path}'.")
        scale = math.sqrt(len(sparse) / len(values)) if rescaled else 1
        places = random_order(sparse.size, seed, f"active {number}")[: values.size]
        sparse.flat[places] = values.ravel() * values.dtype.type(scale)
        kernels.append(from_matrix(sparse, tuple(other.variable.shape), other.neuron_axes))
        reports.append(LayerSparsity(other.path, sparse.size, values.size))
    for other, kernel in zip(wanted, kernels, strict=True):
        other.variable.assign(kernel)
    return SparsityReport(tuple(reports))
