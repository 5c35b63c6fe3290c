"""Sparse networks to start permutation training from: random pruning and one shared weight.

Permuting conserves the zeros of a weight vector, so a network that starts sparse stays exactly as
sparse. Masks come from the same guaranteed generator as the initial values, one stream per kernel.

References:
    Qiu and Suda, NeurIPS 2020, section 5.4 (pruning at initialisation) and 5.5 (a single shared
    weight, as in Gaier and Ha, "Weight agnostic neural networks", NeurIPS 2019).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import keras
import numpy as np

from laperm_lib import weight_vectors
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.permutation import from_matrix, to_matrix


@dataclass(frozen=True)
class LayerSparsity:
    """What was pruned of one kernel.

    Args:
        path: layer and variable, such as "dense/kernel".
        total: the number of weights.
        kept: how many of them the mask kept.
    """

    path: str
    total: int
    kept: int

    @property
    def fraction_pruned(self) -> float:
        """The share of weights set to zero, 0 to 1."""
        return 1 - self.kept / self.total


@dataclass(frozen=True)
class SparsityReport:
    """What was pruned, kernel by kernel.

    Args:
        layers: one entry per kernel, in the order of the model.
    """

    layers: tuple[LayerSparsity, ...]

    @property
    def total(self) -> int:
        """The number of kernel weights."""
        return sum(layer.total for layer in self.layers)

    @property
    def kept(self) -> int:
        """How many of them were kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def fraction_pruned(self) -> float:
        """The share of all kernel weights set to zero, 0 to 1."""
        return 1 - self.kept / self.total


def random_prune(
    model: keras.Model, fraction: float, *, seed: int, first_layer_keep: float = 0.8
) -> SparsityReport:
    """Set each kernel weight to zero with probability `fraction`.

    The weights of the first kernel, which sees the input, are kept with a probability of at least
    `first_layer_keep`. Vectors (biases, normalisation) are not pruned. Prune before training: the
    zeros are part of the initial values that LaPerm permutes.

    Args:
        model: a built model or layer; its kernels are changed in place.
        fraction: the probability of being pruned, 0 to 1.
        seed: an integer of at least 0. A mask depends on it, on the kernel's place in the model and
            on its shape, and is the same on every backend and platform.
        first_layer_keep: the least probability of being kept in the first kernel, 0 to 1. Default
            0.8, as published.

    Returns:
        The `SparsityReport`.

    Raises:
        ValueError: if a probability is outside 0..1, the seed is not an integer of at least 0, or
            the model is not built or has no kernel. Nothing is changed then.

    Examples:
        >>> from laperm_lib.paper import networks as models
        >>> report = random_prune(models.build("f2", seed=0), 0.5, seed=0)
        >>> [(layer.path, round(layer.fraction_pruned, 1)) for layer in report.layers]
        [('dense/kernel', 0.2), ('dense_1/kernel', 0.5), ('dense_2/kernel', 0.5)]

    References:
        Qiu and Suda, NeurIPS 2020, section 5.4.
    """
    keep = 1 - _probability("fraction", fraction)
    first = max(keep, _probability("first_layer_keep", first_layer_keep))
    check_seed(seed)
    kernels = _kernels(model)
    keeps = [first] + [keep] * (len(kernels) - 1)
    values = [keras.ops.convert_to_numpy(kernel.variable) for kernel in kernels]
    return _apply(kernels, values, keeps, seed)


def agnosticize(
    model: keras.Model,
    value: float,
    keep: float | Sequence[float],
    *,
    seed: int,
    constant_fan_in: bool = False,
) -> SparsityReport:
    """Give all kernel weights one shared value and set the others to zero.

    Args:
        model: a built model or layer; its kernels are changed in place, vectors are not.
        value: the shared value, finite.
        keep: the probability that a weight gets the value, 0 to 1; a number, or one per kernel.
        seed: as for `random_prune`.
        constant_fan_in: every weight vector of a kernel gets the value equally often, the rounded
            `keep` times its length, at random places. Permuting keeps the number of connections
            that a neuron has, so otherwise chance decides it once and for all. Default False, as
            published.

    Returns:
        The `SparsityReport`.

    Raises:
        ValueError: if the value is not finite, a probability is outside 0..1, their number is not
            that of the kernels, the seed is not an integer of at least 0, or the model is not built
            or has no kernel. Nothing is changed then.

    Examples:
        The network F2 of the paper:

        >>> from laperm_lib.paper import networks as models
        >>> f2 = models.build("f2", seed=0)
        >>> report = agnosticize(f2, 0.03, (1 / 15, 1 / 7, 1 / 3), seed=0)
        >>> round(report.fraction_pruned, 2)
        0.93

    References:
        Qiu and Suda, NeurIPS 2020, section 5.5.
    """
    if not isinstance(value, Real) or not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"The shared value is a finite float32, got {value!r}.")
    check_seed(seed)
    kernels = _kernels(model)
    keeps = [keep] * len(kernels) if np.ndim(keep) == 0 else list(keep)
    if len(keeps) != len(kernels):
        raise ValueError(f"Got {len(keeps)} probabilities for {len(kernels)} kernels.")
    keeps = [_probability("keep", each) for each in keeps]
    values = [np.full(tuple(kernel.variable.shape), value) for kernel in kernels]
    return _apply(kernels, values, keeps, seed, constant_fan_in)


def _probability(name: str, value: float) -> float:
    # A NaN fails both comparisons.
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability from 0 to 1, got {value!r}.")
    return float(value)


def _kernels(model: keras.Model) -> list[weight_vectors.WeightVectors]:
    kernels = weight_vectors.of(model, kinds=("kernel",))
    if not kernels:
        raise ValueError(f"'{model.name}' has no kernel.")
    return kernels


def _apply(
    kernels: Sequence[weight_vectors.WeightVectors],
    values: Sequence[np.ndarray],
    keeps: Sequence[float],
    seed: int,
    constant_fan_in: bool = False,
) -> SparsityReport:
    """Assign each kernel its values where its mask keeps them and +0.0 elsewhere."""
    mask_of = _constant_fan_in if constant_fan_in else _independent
    masks = [
        # By number and not by name: Keras's automatic names count through the process. The text
        # differs from every stream of initial values, on which a mask must not depend.
        mask_of(kernel, keep, raw_bits(seed, f"mask {number}"))
        for number, (kernel, keep) in enumerate(zip(kernels, keeps, strict=True))
    ]
    # Not mask * values, which turns a negative weight into -0.0.
    sparse = [np.where(mask, w, w.dtype.type(0)) for mask, w in zip(masks, values, strict=True)]
    for kernel, new in zip(kernels, sparse, strict=True):
        kernel.variable.assign(new)
    return SparsityReport(
        tuple(
            LayerSparsity(kernel.path, mask.size, int(np.count_nonzero(mask)))
            for kernel, mask in zip(kernels, masks, strict=True)
        )
    )


def _independent(
    kernel: weight_vectors.WeightVectors, keep: float, source: np.random.Philox
) -> np.ndarray:
    """True with probability `keep`: where u < keep, u on a grid of 2^-53 in [0, 1)."""
    u = (_words(kernel, source) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return u < keep


def _constant_fan_in(
    kernel: weight_vectors.WeightVectors, keep: float, source: np.random.Philox
) -> np.ndarray:
    """True at keep · d places of each weight vector: those with the smallest random words."""
    words = to_matrix(_words(kernel, source), kernel.neuron_axes)
    places = np.argsort(words, axis=1, kind="stable")[:, : round(keep * words.shape[1])]
    mask = np.zeros(words.shape, bool)
    np.put_along_axis(mask, places, True, axis=1)
    return from_matrix(mask, tuple(kernel.variable.shape), kernel.neuron_axes)


def _words(kernel: weight_vectors.WeightVectors, source: np.random.Philox) -> np.ndarray:
    """64 random bits for each weight."""
    shape = tuple(kernel.variable.shape)
    return source.random_raw(math.prod(shape)).reshape(shape)
