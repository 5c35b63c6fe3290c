r"""Effective gradient flow: how strong the gradients of a network are that can act on its weights.

A layer's gradient norm counts the gradients of pruned weights, which nobody follows, and the norm
over a whole network grows with the number of layers. The effective gradient flow of L layers with
gradients :math:`g_l` and masks :math:`m_l` (1 for an active weight, 0 for a pruned one) does
neither:

.. math:: \mathrm{EGF}_p = \frac{1}{L} \sum_{l=1}^{L} \lVert g_l \odot m_l \rVert_p .

References:
    Tessera, Hooker and Rosman, "Keep the gradients flowing: using gradient flow to study sparse
    network optimization", 2021, arXiv:2102.01670.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from laperm_lib import weight_vectors
from laperm_lib._arguments import check_number
from laperm_lib.gradients import gradients


@dataclass(frozen=True)
class LayerFlow:
    """The gradient of one kernel.

    Args:
        path: layer and variable, such as "dense/kernel".
        norm: the p-norm of the whole gradient; NaN or infinite if the gradient is.
        effective: the p-norm of the gradient at the active weights.
        total: the number of weights.
        active: how many of them are active.
    """

    path: str
    norm: float
    effective: float
    total: int
    active: int


@dataclass(frozen=True)
class GradientFlow:
    """The gradients of a network, kernel by kernel.

    Args:
        layers: one entry per kernel, in the order of the model.
    """

    layers: tuple[LayerFlow, ...]

    @property
    def effective(self) -> float:
        """The effective gradient flow, the mean of the layers' norms at active weights."""
        return float(np.mean([layer.effective for layer in self.layers]))

    @property
    def norm(self) -> float:
        """The mean of the layers' plain norms, with the gradients of pruned weights."""
        return float(np.mean([layer.norm for layer in self.layers]))


def effective_gradient_flow(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    p: float = 2,
    masks: Sequence[Any] | None = None,
    training: bool = True,
) -> GradientFlow:
    """Measure the effective gradient flow of a network, and plain gradient norms beside it.

    A layer is a kernel here, of any layer that `laperm_lib.weight_vectors` knows; a recurrent layer
    has two. Biases and the parameters of normalisation are never pruned in this library and are
    left out. Nothing of the model changes.

    Args:
        model: a built model.
        x: inputs, shape (n, ...). All samples form one batch.
        y: targets, shape (n, ...).
        loss: as for `laperm_lib.gradients.gradients`. It is the mean over samples, without the
            penalties that layers add, such as L2.
        p: of the norm, at least 1. Default 2.
        masks: for each kernel, in the order of `laperm_lib.weight_vectors.of`, an array of its
            shape with True or 1 for active weights and False or 0 for pruned ones. Default: weights
            that are exactly zero are pruned. So they are after `laperm_lib.sparsity`, after every
            synchronisation of a sparse network, and with `laperm_lib.constraints.keep_zeros`;
            initial values are never zero. Between two synchronisations no weight is.
        training: True (the default) takes the gradients that training has, where batch
            normalisation uses the statistics of this batch; False those with its moving averages.

    Returns:
        The `GradientFlow`; its `effective` is the number that the paper calls EGF.

    Raises:
        ValueError: if `p` is below 1, the masks do not fit the kernels, the model is not built or
            has no kernel, or `laperm_lib.gradients.gradients` refuses loss or samples.
        UnknownLayerError: if the kernels of a layer are not known.

    Examples:
        >>> layer = keras.layers.Dense(1, use_bias=False, name="d")
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> model.set_weights([np.array([[1.0], [0.0]])])
        >>> flow = effective_gradient_flow(model, np.array([[3.0, 4.0]]), np.array([[2.0]]), "mse")
        >>> flow.layers  # the gradient is 2 (3 - 2) x
        (LayerFlow(path='d/kernel', norm=10.0, effective=6.0, total=2, active=1),)

    References:
        Tessera, Hooker and Rosman, arXiv:2102.01670 (effective gradient flow).
    """
    p = check_number("p", p, at_least=1)
    kernels = weight_vectors.of(model)
    if not kernels:
        raise ValueError(f"'{model.name}' has no kernel.")
    if masks is None:
        masks = [keras.ops.convert_to_numpy(kernel.variable) != 0 for kernel in kernels]
    if len(masks) != len(kernels):
        raise ValueError(f"Got {len(masks)} masks for {len(kernels)} kernels.")
    checked = [
        _checked_mask(mask, kernel.path, tuple(kernel.variable.shape))
        for mask, kernel in zip(masks, kernels, strict=True)
    ]
    found = gradients(model, x, y, loss, training=training)
    by_variable = {
        id(variable): gradient
        for variable, gradient in zip(model.trainable_variables, found, strict=True)
    }
    return GradientFlow(
        tuple(
            layer_flow(kernel.path, by_variable[id(kernel.variable)], mask, p)
            for kernel, mask in zip(kernels, checked, strict=True)
        )
    )


def layer_flow(path: str, gradient: np.ndarray, mask: np.ndarray, p: float) -> LayerFlow:
    """The norms of one gradient.

    Args:
        path: layer and variable.
        gradient: of any shape.
        mask: boolean, of the same shape, True for active weights.
        p: of the norm, at least 1.

    Examples:
        >>> layer_flow("d/kernel", np.array([3.0, 4.0]), np.array([True, False]), p=1)
        LayerFlow(path='d/kernel', norm=7.0, effective=3.0, total=2, active=1)
    """
    active = gradient[mask]
    return LayerFlow(path, _norm(gradient, p), _norm(active, p), gradient.size, active.size)


def _norm(values: np.ndarray, p: float) -> float:
    """The p-norm, in float64; of no values 0.

    Relative to the largest value, for the powers of small gradients would be zero.
    """
    sizes = np.abs(values, dtype=np.float64).ravel()
    largest = float(sizes.max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sum((sizes / largest) ** p) ** (1 / p))


def _checked_mask(mask: Any, path: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(mask)
    if array.shape != shape:
        raise ValueError(f"The mask of '{path}' has shape {array.shape}, not {shape}.")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"The mask of '{path}' holds something else than 0 and 1.")
    return array.astype(bool)
