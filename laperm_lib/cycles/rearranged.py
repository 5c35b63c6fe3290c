"""A step of SGPerm for all variables of a network, as a part of a training step of any backend.

`laperm_lib.cycles` does it for the arrays of one variable; here they come from the variables
that `laperm_lib.SGPerm` keeps, and go back to them, by way of `laperm_lib._host`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _host as host
from laperm_lib.cycles import Rearrangement
from laperm_lib.errors import NonFiniteWeightError


@dataclass(frozen=True, eq=False)
class RearrangedVariable:
    """A variable whose weights are rearranged, and what is kept for it.

    Args:
        number: which of them it is, from 0: it has random parts of its own.
        variable: the model's variable.
        recommendation: what its places want: a float32 variable of the same shape.
        spread: max - min of each of its initial weight vectors: a variable of shape (neurons,).
        neuron_axes: the axes of `variable` that run over neurons.
    """

    number: int
    variable: Any
    recommendation: Any
    spread: Any
    neuron_axes: tuple[int, ...]


def check_device() -> None:
    """Refuse, before training starts, where no step can call what rearranges weights.

    Raises:
        ValueError: if several devices train together, or the backend is JAX on an accelerator or
            older than 0.6.1.
    """
    if keras.distribution.distribution() is not None:
        raise ValueError("SGPerm trains on one device, not under a keras.distribution.")
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            if tf.distribute.get_strategy().num_replicas_in_sync > 1:
                raise ValueError("SGPerm trains on one device, not under a tf.distribute strategy.")
        case "jax":
            import jax

            if jax.default_backend() != "cpu":
                raise ValueError(
                    "SGPerm rearranges weights on the CPU, and with the JAX backend it can train "
                    "only there: set JAX_PLATFORMS=cpu, or KERAS_BACKEND=tensorflow or torch."
                )
            if not host.jax_can_call():
                raise ValueError("With the JAX backend, SGPerm needs JAX 0.6.1 or later.")


def rearrange(
    entries: Sequence[RearrangedVariable],
    gradients: Sequence[Any],
    how: Rearrangement,
    *,
    step: Any,
    rate: Any,
) -> None:
    """Renew the recommendations of variables, and rearrange their weights by them.

    Args:
        entries: the variables that have a gradient.
        gradients: tensors, one for each.
        how: the hyperparameters.
        step: counted from 0, an integer tensor.
        rate: the learning rate of the recommendation, a tensor.

    Raises:
        NonFiniteWeightError: if a recommendation becomes a NaN or an infinity; names the variable.
            No weight is moved then. TensorFlow wraps it in its InvalidArgumentError; on JAX nothing
            is raised, no weight moves any more, and `check_finite` tells.
    """
    if not entries:
        return
    count = len(entries)
    weights = [ops.convert_to_tensor(entry.variable) for entry in entries]
    wishes = [ops.convert_to_tensor(entry.recommendation) for entry in entries]
    spreads = [ops.convert_to_tensor(entry.spread) for entry in entries]
    of_step = [ops.convert_to_tensor(gradient) for gradient in gradients]

    def on_host(now: Any, eta: Any, *arrays: np.ndarray) -> list[np.ndarray]:
        by_kind = [arrays[first : first + count] for first in range(0, len(arrays), count)]
        return _on_host(entries, how, int(now), float(eta), *by_kind)

    new_values = host.call(
        on_host,
        [step, rate, *weights, *wishes, *spreads, *of_step],
        like=[*weights, *wishes],
    )
    assigned = [e.variable for e in entries] + [e.recommendation for e in entries]
    for variable, value in zip(assigned, new_values, strict=True):
        variable.assign(value)


def check_finite(entries: Sequence[RearrangedVariable]) -> None:
    """Refuse recommendations that hold a NaN or an infinity, which no step makes finite again.

    Args:
        entries: variables that have values.

    Raises:
        NonFiniteWeightError: names the variable.
    """
    _check_finite(entries, [ops.convert_to_numpy(entry.recommendation) for entry in entries])


def _on_host(
    entries: Sequence[RearrangedVariable],
    how: Rearrangement,
    step: int,
    rate: float,
    weights: Sequence[np.ndarray],
    previous: Sequence[np.ndarray],
    spreads: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """The new weights, then the new recommendations."""
    wishes = [how.recommend(*pair, rate) for pair in zip(previous, gradients, strict=True)]
    try:
        _check_finite(entries, wishes)
    except NonFiniteWeightError:
        if keras.backend.backend() != "jax":
            raise
        return [*weights, *wishes]
    new = [
        how.rearrange(*arrays, neuron_axes=entry.neuron_axes, number=entry.number, step=step)
        for entry, *arrays in zip(entries, weights, wishes, spreads, strict=True)
    ]
    return new + wishes


def _check_finite(entries: Sequence[RearrangedVariable], wishes: Sequence[np.ndarray]) -> None:
    for entry, wish in zip(entries, wishes, strict=True):
        if not np.isfinite(wish).all():
            raise NonFiniteWeightError(
                f"The gradient of '{entry.variable.path}' holds a NaN or an infinity; no weight "
                "was moved."
            )
