"""Sparse networks to start permutation training from: random pruning, or one shared value.

Permuting conserves the zeros of a weight vector, so a network that starts sparse stays exactly as
sparse; `keep_zeros` does the same for other optimizers. Masks come from the same guaranteed
generator as the initial values, one stream per kernel.

References:
    Qiu and Suda, NeurIPS 2020, section 5.4 (pruning at initialisation) and 5.5 (a single shared
    weight, as in Gaier and Ha, "Weight agnostic neural networks", NeurIPS 2019).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state  # which optimizer applies a constraint

from laperm_lib import weight_vectors
from laperm_lib._arguments import check_bool, check_number
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
    model: keras.Model,
    fraction: float,
    *,
    seed: int,
    first_layer_keep: float = 0.8,
    exclude: str | Iterable[str] = (),
) -> SparsityReport:
    """Set each kernel weight to zero with probability `fraction`.

    The weights of the first kernel, which sees the input, are kept with a probability of at least
    `first_layer_keep`. Vectors (biases, normalisation) are not pruned, nor are frozen variables and
    those of layers that `laperm_lib.weight_vectors` does not know. Prune before training: the zeros
    are part of the initial values that LaPerm permutes.

    Args:
        model: a built model or layer; its kernels are changed in place.
        fraction: the probability of being pruned, 0 to 1.
        seed: an integer of at least 0. A mask depends on it, on the kernel's place in the model and
            on its shape, and is the same on every backend and platform.
        first_layer_keep: the least probability of being kept in the first kernel, 0 to 1. Default
            0.8, as published.
        exclude: regular expressions; kernels whose path contains one stay as they are. The masks of
            the others do not depend on it. Default: none.

    Returns:
        The `SparsityReport`.

    Raises:
        ValueError: if a probability is outside 0..1, the seed is not an integer of at least 0, or
            the model is not built or has no kernel. Nothing is changed then.
        UnknownLayerError: if the model has no kernel and variables of unknown layers.

    Examples:
        >>> dense = [keras.layers.Dense(units, name=f"{units}") for units in (300, 10)]
        >>> report = random_prune(keras.Sequential([keras.Input((784,)), *dense]), 0.5, seed=0)
        >>> [(layer.path, round(layer.fraction_pruned, 1)) for layer in report.layers]
        [('300/kernel', 0.2), ('10/kernel', 0.5)]

    References:
        Qiu and Suda, NeurIPS 2020, section 5.4.
    """
    keep = 1 - check_number("fraction", fraction, at_least=0, at_most=1)
    first = max(keep, check_number("first_layer_keep", first_layer_keep, at_least=0, at_most=1))
    check_seed(seed)
    kernels = weight_vectors.kernels(model, exclude)
    keeps = [keep if number else first for number in kernels]
    values = [ops.convert_to_numpy(kernel.variable) for kernel in kernels.values()]
    return _apply(kernels, values, keeps, seed)


def agnosticize(
    model: keras.Model,
    value: float,
    keep: float | Sequence[float],
    *,
    seed: int,
    constant_fan_in: bool = False,
    exclude: str | Iterable[str] = (),
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
        exclude: as for `random_prune`.

    Returns:
        The `SparsityReport`.

    Raises:
        ValueError: if the value is not finite, a probability is outside 0..1, their number is not
            that of the kernels, the seed is not an integer of at least 0, or the model is not built
            or has no kernel. Nothing is changed then.

    Examples:
        >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
        >>> report = agnosticize(model, 0.08, 4 / 7, seed=0)
        >>> round(report.fraction_pruned, 2)
        0.44

    References:
        Qiu and Suda, NeurIPS 2020, section 5.5.
    """
    if not isinstance(value, Real) or not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"The shared value is a finite float32, got {value!r}.")
    check_seed(seed)
    check_bool("constant_fan_in", constant_fan_in)
    kernels = weight_vectors.kernels(model, exclude)
    keeps = [keep] * len(kernels) if np.ndim(keep) == 0 else list(keep)
    if len(keeps) != len(kernels):
        raise ValueError(f"Got {len(keeps)} probabilities for {len(kernels)} kernels.")
    keeps = [check_number("keep", each, at_least=0, at_most=1) for each in keeps]
    values = [np.full(tuple(kernel.variable.shape), value) for kernel in kernels.values()]
    return _apply(kernels, values, keeps, seed, constant_fan_in)


def keep_zeros(model: keras.Model, *, exclude: str | Iterable[str] = ()) -> float:
    """Make the kernel weights that are zero now stay zero while another optimizer trains them.

    LaPerm conserves the number of zeros by sorting, and lets them move. Adam or SGD move every
    weight, pruned or not. Keras gives each variable a constraint that every optimizer applies after
    its step, inside the compiled program and on every backend; here it sets the pruned weights to
    zero again, in the optimizer's average (`use_ema=True`) too. A constraint that a kernel already
    has is applied first.

    Call it after every pruning, before training, between two trainings or in a callback; the zeros
    of the latest call count. Models are made to compile their training step again; a loop that you
    have compiled yourself (tf.function, jax.jit) must be compiled after this call.

    Optimizers that treat each weight by itself (SGD, momentum, Adam, ...) move the others as if the
    pruned weights were not there; clipping by a norm over several weights sees their gradients. The
    constraint is not saved with the model: call this again after loading. Not for LaPerm, which
    moves zeros to other places, nor for SGPerm, which applies no constraints.

    Args:
        model: a built model.
        exclude: as for `random_prune`.

    Returns:
        The share of kernel weights that are kept at zero, 0 to 1.

    Raises:
        ValueError: if the model is not built or has no kernel.
        UnknownLayerError: if the model has no kernel and variables of unknown layers.

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[1.0], [0.0]])])
        >>> keep_zeros(model)
        0.5
        >>> model.compile("adam", loss="mse")
        >>> history = model.fit(np.ones((8, 2)), np.ones((8, 1)), verbose=0)
        >>> [value != 0 for value in model.get_weights()[0].ravel().tolist()]
        [True, False]
    """
    kernels = [vectors.variable for vectors in weight_vectors.kernels(model, exclude).values()]
    masks = [ops.convert_to_numpy(kernel) != 0 for kernel in kernels]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.constraint = _Masked(mask, kernel.constraint)
    _compile_steps_again(kernels)
    zeros = sum(mask.size - np.count_nonzero(mask) for mask in masks)
    return float(zeros / sum(mask.size for mask in masks))


class _Masked(keras.constraints.Constraint):
    """Zero where a mask is False, and what another constraint gives elsewhere."""

    def __init__(self, mask: np.ndarray, first: Any) -> None:
        # A tensor, which TensorFlow's graph takes as an input: a constant it would write out.
        self._mask = ops.convert_to_tensor(mask)
        # Of an earlier call only what came before it: this mask holds its zeros too.
        self._first: Any = first._first if isinstance(first, _Masked) else first

    def __call__(self, w: Any) -> Any:
        # Keras averages weights before it constrains them, and puts the averages in unconstrained.
        # The constraint is applied in the name scope of the optimizer.
        scopes = global_state.get_global_attribute("name_scope_stack")
        optimizer: Any = scopes[-1].caller if scopes else None
        if getattr(optimizer, "use_ema", False):
            average = optimizer._model_variables_moving_average[optimizer._get_variable_index(w)]
            average.assign(self._masked(average))
        return self._masked(w if self._first is None else self._first(w))

    def _masked(self, w: Any) -> Any:
        w = ops.convert_to_tensor(w)
        # Not mask * w, which turns a negative weight into -0.0.
        return ops.where(self._mask, w, ops.zeros_like(w))


def _compile_steps_again(variables: Sequence[Any]) -> None:
    """Keras keeps a model's compiled step; also the models around or inside the one at hand."""
    changed = {id(variable) for variable in variables}
    for model in weight_vectors.alive(keras.Model):
        trains = any(id(variable) in changed for variable in model.trainable_variables)
        if trains and model.train_function is not None:
            model.make_train_function(force=True)  # not None, which a running fit would call


def _apply(
    kernels: dict[int, weight_vectors.WeightVectors],
    values: Sequence[np.ndarray],
    keeps: Sequence[float],
    seed: int,
    constant_fan_in: bool = False,
) -> SparsityReport:
    """Assign each kernel its values where its mask keeps them and +0.0 elsewhere."""
    masks = [
        # By number and not by name: Keras's automatic names count through the process. The text
        # differs from every stream of initial values, on which a mask must not depend.
        _mask(kernel, keep, raw_bits(seed, f"mask {number}"), constant_fan_in)
        for (number, kernel), keep in zip(kernels.items(), keeps, strict=True)
    ]
    # Not mask * values, which turns a negative weight into -0.0.
    sparse = [np.where(mask, w, w.dtype.type(0)) for mask, w in zip(masks, values, strict=True)]
    for kernel, new in zip(kernels.values(), sparse, strict=True):
        kernel.variable.assign(new)
    return SparsityReport(
        tuple(
            LayerSparsity(kernel.path, mask.size, int(np.count_nonzero(mask)))
            for kernel, mask in zip(kernels.values(), masks, strict=True)
        )
    )


def _mask(
    kernel: weight_vectors.WeightVectors,
    keep: float,
    source: np.random.Philox,
    constant_fan_in: bool,
) -> np.ndarray:
    """True for the weights that are kept, decided by 64 random bits each."""
    shape = tuple(kernel.variable.shape)
    words = source.random_raw(math.prod(shape)).reshape(shape)
    if not constant_fan_in:
        # u < keep, for u on a grid of 2^-53 in [0, 1)
        return (words >> np.uint64(11)) * 2.0**-53 < keep
    # The keep * d places of each weight vector with the smallest words.
    rows = to_matrix(words, kernel.neuron_axes)
    places = np.argsort(rows, axis=1, kind="stable")[:, : round(keep * rows.shape[1])]
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, places, True, axis=1)
    return from_matrix(mask, shape, kernel.neuron_axes)
