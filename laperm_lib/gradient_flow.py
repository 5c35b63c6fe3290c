r"""Effective gradient flow: how strong the gradients are that can act on a network's weights.

A layer's gradient norm counts the gradients of pruned weights, which are never applied, and the
norm over a whole network grows with the number of layers. The effective gradient flow of L layers
with gradients :math:`g_l` and masks :math:`m_l` (1 for an active weight, 0 for a pruned one) does
neither:

.. math:: \mathrm{EGF}_p = \frac{1}{L} \sum_{l=1}^{L} \lVert g_l \odot m_l \rVert_p .

References:
    Tessera, Hooker and Rosman, "Keep the gradients flowing: using gradient flow to study sparse
    network optimization", 2021, arXiv:2102.01670.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers.compile_utils import CompileLoss  # the loss as `fit` computes it

from laperm_lib import _backend, weight_vectors
from laperm_lib._arguments import check_number


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
    """The gradients of a network, one entry of `layers` for each kernel, in the model's order."""

    layers: tuple[LayerFlow, ...]

    @property
    def effective(self) -> float:
        """The effective gradient flow, the mean of the layers' norms at active weights."""
        return float(np.mean([layer.effective for layer in self.layers]))

    @property
    def norm(self) -> float:
        """The mean of the layers' plain norms, which count the gradients of pruned weights."""
        return float(np.mean([layer.norm for layer in self.layers]))


def effective_gradient_flow(
    model: keras.Model, x: Any, y: Any, loss: Any, *, sample_weight: Any = None, p: float = 2
) -> GradientFlow:
    """Measure the effective gradient flow of a network, and plain gradient norms beside it.

    A layer here is a kernel that `laperm_lib.weight_vectors` knows; a recurrent layer has two.
    Biases and normalisation, which this library never prunes, are left out, and unknown layers.
    Weights that are
    exactly zero count as pruned, as after `laperm_lib.sparsity` and after every synchronisation of
    a sparse network; between two synchronisations no weight is zero.

    The gradients are those of training: batch normalisation uses the statistics of these samples,
    dropout drops, with the masks of the next step, and the loss leaves out what a layer masks, such
    as padding. Nothing of the model changes.

    Args:
        model: a built model.
        x: inputs, shape (n, ...), or a structure of them as the model takes it. All samples form
            one batch.
        y: targets, shape (n, ...), or a structure of them as the loss takes it.
        loss: as `compile` takes it: a Keras loss, its name, a function of targets and outputs, or a
            list or dict of them, one for each output. Its mean counts, without penalties of layers,
            such as L2. With `model.loss`, or None for the same, the model's `loss_weights` count
            too; another function is given several outputs at once and adds up their losses.
        sample_weight: as `fit` takes it. Default: all samples count the same.
        p: of the norm, at least 1. Default 2.

    Returns:
        The `GradientFlow`; its `effective` is what the paper calls EGF.

    Raises:
        ValueError: if `p` is below 1, the model is not built or has no kernel, the loss is unknown,
            or does not fit the outputs, there are no samples, or not as many inputs as targets or
            weights.
        UnknownLayerError: if the model has no kernel and variables of unknown layers.

    Examples:
        >>> layer = keras.layers.Dense(1, use_bias=False, name="d")
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> model.set_weights([np.array([[1.0], [0.0]])])
        >>> flow = effective_gradient_flow(model, np.array([[3.0, 4.0]]), np.array([[2.0]]), "mse")
        >>> flow.layers  # the gradient is 2 (3 - 2) x
        (LayerFlow(path='d/kernel', norm=10.0, effective=6.0, total=2, active=1),)
    """
    p = check_number("p", p, at_least=1)
    kernels = weight_vectors.kernels(model).values()
    found = zip(model.trainable_variables, gradients(model, x, y, loss, sample_weight), strict=True)
    by_variable = {id(variable): gradient for variable, gradient in found}
    return GradientFlow(
        tuple(
            layer_flow(
                kernel.path,
                by_variable[id(kernel.variable)],
                ops.convert_to_numpy(kernel.variable) != 0,
                p,
            )
            for kernel in kernels
        )
    )


def layer_flow(path: str, gradient: np.ndarray, mask: np.ndarray, p: float) -> LayerFlow:
    """The norms of one gradient; the mask is True for active weights."""
    active = gradient[mask]
    return LayerFlow(path, _norm(gradient, p), _norm(active, p), gradient.size, active.size)


def _norm(values: np.ndarray, p: float) -> float:
    """The p-norm, in float64; relative to the largest value, for small powers would be zero."""
    sizes = np.abs(values, dtype=np.float64).ravel()
    largest = float(sizes.max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sum((sizes / largest) ** p) ** (1 / p))


def gradients(
    model: keras.Model, x: Any, y: Any, loss: Any, sample_weight: Any = None
) -> list[np.ndarray]:
    """The gradient of a model's mean loss for each trainable variable, in their order.

    The model is called as a function of its weights, so nothing of it changes.
    """
    if not model.built or not model.trainable_variables:
        raise ValueError(f"'{model.name}' is not built or has no trainable variable.")
    function = _loss_of_training(model, loss)
    inputs, targets, weights = keras.tree.map_structure(
        lambda part: None if part is None else ops.convert_to_tensor(part), (x, y, sample_weight)
    )
    parts = [part for part in keras.tree.flatten((inputs, targets, weights)) if part is not None]
    counts = {tuple(part.shape)[:1] for part in parts}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError("Inputs and targets must hold the same number of samples, at least one.")

    def mean_loss(values: list[Any]) -> Any:
        mapping = list(zip(model.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return ops.mean(function(targets, model(inputs, training=True), weights))

    values = [variable.value for variable in model.trainable_variables]
    return [ops.convert_to_numpy(each) for each in _backend.gradients_of(mean_loss, values)]


def _loss_of_training(model: keras.Model, loss: Any) -> Callable[[Any, Any, Any], Any]:
    """The loss of targets, outputs and sample weights as `fit` computes it, without penalties."""
    compiled: Any = getattr(model, "_compile_loss", None)
    weights = None
    is_own = compiled is not None and (loss is None or loss is model.loss)
    if is_own:
        loss, weights = compiled._user_loss, compiled._user_loss_weights
    if not any(callable(part) or isinstance(part, str) for part in keras.tree.flatten(loss)):
        raise ValueError(
            "loss is a Keras loss, its name, a function of targets and outputs, or a list or dict "
            f"of them, one for each output. Got {loss!r}; a model that computes its loss itself "
            "needs such a function here."
        )
    function = CompileLoss(loss, weights, output_names=getattr(model, "output_names", None))

    takes_all = callable(loss) and not is_own and not isinstance(loss, keras.losses.Loss)

    def of_outputs(targets: Any, outputs: Any, sample_weight: Any) -> Any:
        if takes_all and keras.tree.is_nested(outputs):
            if sample_weight is not None:
                raise ValueError("Weigh the samples in the function that is given all outputs.")
            return loss(targets, outputs)
        try:
            return function(targets, outputs, sample_weight)
        except (KeyError, TypeError) as error:
            raise ValueError(f"The loss {loss!r} does not fit the outputs: {error}") from error

    return of_outputs
