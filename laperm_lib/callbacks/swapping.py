"""Other weights in the place of a model's own, for good or for the length of a `with`.

Two things go with the weights. The statistics of batch normalisation follow the weights of training
by moving averages and do not fit an average of weights, so they are re-estimated. And an average of
permutations is no permutation: a model that LaPerm trains can be synchronised once it holds it.

References:
    Izmailov et al., UAI 2018, section 3.2 (statistics after weight averaging).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import batch_statistics
from laperm_lib.optimizers.laperm import LaPerm


def weights_of(model: keras.Model) -> list[np.ndarray]:
    """Copies of a model's trainable weights, in their own types.

    Args:
        model: built.

    Returns:
        One array for each of `model.trainable_variables`, in that order.
    """
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.trainable_variables]


def replace(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    *,
    batches: Iterable[Any] | None = (),
    synchronise: bool = False,
) -> None:
    """Put other weights into a model, for good; all of this or, with an error, nothing.

    Args:
        model: built.
        weights: one array for each of `model.trainable_variables`, in that order and of that shape.
        batches: the inputs that the statistics of batch normalisation are re-estimated with, as for
            `laperm_lib.batch_statistics.reestimate`; None leaves the statistics as they are.
            Default: none, for a model without.
        synchronise: let the model's `LaPerm` put its initial values into the order of the weights.
            Default False.

    Raises:
        ValueError: for weights of another number or shape; if there is batch normalisation and no
            batch; or to synchronise a model that no `LaPerm` trains.
        NonFiniteWeightError: if a weight to be synchronised is NaN or infinite.
    """
    before = weights_of(model)
    try:
        _put(model, weights, synchronise)
        if batches is not None:
            batch_statistics.reestimate(model, batches)
    except BaseException:
        _assign(model, before)
        raise


@contextmanager
def replaced(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    *,
    batches: Iterable[Any] = (),
    synchronise: bool = False,
) -> Iterator[None]:
    """The same for the length of a `with`.

    Behind it, also if something raises, weights and statistics are bitwise what they were.

    Args:
        model: as for `replace`.
        weights: as for `replace`.
        batches: as for `replace`.
        synchronise: as for `replace`.

    Raises:
        ValueError: as `replace`.
        NonFiniteWeightError: as `replace`.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[2.0]])])
        >>> with replaced(model, [np.array([[0.5]])]):
        ...     weights_of(model)[0].tolist()
        [[0.5]]
        >>> weights_of(model)[0].tolist()
        [[2.0]]
    """
    before = weights_of(model)
    try:
        _put(model, weights, synchronise)
        with batch_statistics.reestimated(model, batches):
            try:
                yield
            finally:
                reattach(model)  # before the old statistics are put back
    finally:
        _assign(model, before)


def reattach(model: keras.Model) -> None:
    """Give a model in `fit` or `evaluate` its state back, which JAX keeps apart meanwhile."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def laperm_of(model: keras.Model) -> LaPerm:
    """The `LaPerm` that trains a model, perhaps inside of Keras's `LossScaleOptimizer`.

    Args:
        model: a model.

    Raises:
        ValueError: if another optimizer trains it.
    """
    optimizer = getattr(model, "optimizer", None)  # none before it is compiled
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, LaPerm):
        raise ValueError(
            f"Only a model that LaPerm trains can be synchronised; the optimizer of '{model.name}' "
            f"is {getattr(optimizer, 'name', 'none')}."
        )
    return optimizer


def has_batch_normalization(model: keras.Model) -> bool:
    """Whether a layer of the model, nested ones included, keeps statistics of its inputs."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
    )


def _put(model: keras.Model, weights: Sequence[np.ndarray], synchronise: bool) -> None:
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    if [array.shape for array in weights] != shapes:
        raise ValueError(f"The weights do not have the shapes of those of '{model.name}'.")
    laperm = laperm_of(model) if synchronise else None
    _assign(model, weights)
    if laperm is not None:
        laperm.synchronise()


def _assign(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
