"""Gradients of a loss at the weights that a model has now, outside of any training step.

This is the one place that knows how each backend differentiates. Nothing of the model changes: it
is called as a function of its weights, and what batch normalisation and dropout would write is
thrown away.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def gradients(
    model: keras.Model, x: Any, y: Any, loss: Any, *, training: bool = True
) -> list[np.ndarray]:
    """The gradient of a model's mean loss over some samples, for each trainable variable.

    Penalties that layers add, such as L2, are not part of the loss.

    Args:
        model: a built model.
        x: inputs, shape (n, ...), or a structure of them as the model takes it. All samples form
            one batch.
        y: targets, shape (n, ...), or a structure of them as the loss takes it.
        loss: a Keras loss or its name, or a function of targets and outputs that gives a loss, or
            one for each sample.
        training: True (the default) takes the gradients that training has: batch normalisation uses
            the statistics of this batch, and dropout drops, with the masks of the next step. False
            takes those of the network as it is used: moving averages, no dropout.

    Returns:
        NumPy arrays with the shapes of `model.trainable_variables`, in their order; zeros where the
        loss does not depend on a variable.

    Raises:
        ValueError: if the model is not built or has no trainable variable, the loss is unknown, or
            there are no samples, or not as many inputs as targets.

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[1.0], [2.0]])])
        >>> (kernel,) = gradients(model, np.array([[3.0, 4.0]]), np.array([[10.0]]), "mse")
        >>> kernel.ravel().tolist()  # 2 (3 + 8 - 10) x
        [6.0, 8.0]
    """
    if not model.built or not model.trainable_variables:
        raise ValueError(f"'{model.name}' is not built or has no trainable variable.")
    if not (callable(loss) or isinstance(loss, str)):
        raise ValueError(
            "loss is a Keras loss, its name, or a function of targets and outputs; with several "
            f"outputs, that function adds up their losses. Got {loss!r}."
        )
    function = keras.losses.get(loss)
    inputs, targets = (keras.tree.map_structure(ops.convert_to_tensor, part) for part in (x, y))
    counts = {tuple(part.shape)[:1] for part in keras.tree.flatten((inputs, targets))}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError("Inputs and targets hold the same number of samples, at least one.")

    def mean_loss(values: list[Any]) -> Any:
        mapping = list(zip(model.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return ops.mean(function(targets, model(inputs, training=training)))

    values = [variable.value for variable in model.trainable_variables]
    return [ops.convert_to_numpy(gradient) for gradient in _differentiate(mean_loss, values)]


def _differentiate(function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
    """The derivatives of a scalar function of a list of tensors, at these."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            values = [tf.convert_to_tensor(value) for value in values]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                result = function(values)
            return tape.gradient(result, values, unconnected_gradients="zero")
        case "jax":
            import jax

            return jax.grad(function)(values)
        case _:
            import torch

            leaves = [value.detach().clone().requires_grad_() for value in values]
            # Dropout may draw from torch's own generator, whose state is to stay.
            with torch.enable_grad(), torch.random.fork_rng():
                result = function(leaves)
            return list(
                torch.autograd.grad(result, leaves, allow_unused=True, materialize_grads=True)
            )
