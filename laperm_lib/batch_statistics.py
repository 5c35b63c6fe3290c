r"""Statistics of batch normalisation that belong to the weights a network has now.

In training, batch normalisation follows the mean and variance of its inputs by moving averages.
Once weights are replaced, by a synchronisation or by an average, these no longer fit. `reestimate`
puts the population's statistics in their place:

.. math:: \mu = \frac{1}{N} \sum_i x_i, \qquad \sigma^2 = \frac{1}{N} \sum_i (x_i - \mu)^2

for the N inputs x that a layer gets when the network runs over given data as at inference: without
dropout, and with the new statistics of the layers before it. Each layer has a pass of its own, so
the result is exact: neither the order of the data nor their division into batches matters.

References:
    Izmailov et al., UAI 2018, section 3.2 (statistics after weight averaging).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np
from keras import ops


def reestimate(model: keras.Model, batches: Iterable[Any]) -> int:
    """Set mean and variance of every batch normalisation to those of its inputs over some data.

    No weight is touched, and nothing at all if anything fails. The data are read once for each
    batch normalisation, up to that layer.

    Args:
        model: built; its layers may be nested.
        batches: a list, or another iterable that can be read several times, of inputs of the
            model, shape (n, ...), or of tuples that begin with them. They are preprocessed like
            those that the network will be used with.

    Returns:
        How many layers have new statistics.

    Raises:
        ValueError: if the model is not built; a batch normalisation has `renorm`, is called twice
            or with a mask, or gets a NaN or an infinity; or there are no such batches.

    Examples:
        >>> normalise = keras.layers.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((1,)), normalise])
        >>> reestimate(model, [np.array([[0.0], [2.0]]), np.array([[4.0]])])
        1
        >>> [f"{float(v[0]):.3f}" for v in (normalise.moving_mean, normalise.moving_variance)]
        ['2.000', '2.667']
    """
    layers = _checked_normalizations(model)
    if not layers:
        return 0
    check_batches(batches)
    called = _in_order_of_calls(model, layers, batches)
    before = _statistics(called)
    try:
        for layer in called:
            mean, variance = _population(model, layer, batches)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
    except BaseException:
        _restore(before)
        raise
    return len(called)


def check_batches(batches: Iterable[Any]) -> None:
    """Raise a ValueError unless these can be batches that can be read several times."""
    if hasattr(batches, "shape"):
        raise ValueError("batches is a list of batches; for a single one, x, pass [x].")
    if iter(batches) is batches:
        raise ValueError("The batches can be read only once: pass a list of them.")


@contextmanager
def reestimated(model: keras.Model, batches: Iterable[Any]) -> Iterator[int]:
    """`reestimate`, whose result it yields, for the length of a `with`; then the old ones return.

    Examples:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
        >>> with reestimated(model, [np.array([[0.0], [2.0]])]):
        ...     float(model.layers[0].moving_mean[0])
        1.0
        >>> float(model.layers[0].moving_mean[0])
        0.0
    """
    before = _statistics(_checked_normalizations(model))
    try:
        yield reestimate(model, batches)
    finally:
        _restore(before)


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """All batch normalisations of a model, those of nested models included."""
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _checked_normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    found = normalizations(model)
    if not model.built or not all(layer.built for layer in found):
        raise ValueError(f"'{model.name}' is not built, so it has no statistics.")
    for layer in found:
        if layer.renorm:
            raise ValueError(f"'{layer.path}' has renorm=True, whose statistics are others.")
    return found


_Statistics = list[tuple[Any, np.ndarray]]


def _statistics(layers: Iterable[keras.layers.BatchNormalization]) -> _Statistics:
    variables = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    return [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]


def _restore(before: _Statistics) -> None:
    for variable, value in before:
        variable.assign(value)


def _in_order_of_calls(
    model: keras.Model, layers: list[keras.layers.BatchNormalization], batches: Iterable[Any]
) -> list[keras.layers.BatchNormalization]:
    """The layers that the model calls, in that order, found with one sample."""
    first = next(_inputs(batches), None)
    if first is None:
        raise ValueError("There are no samples to take statistics from.")
    called: list[keras.layers.BatchNormalization] = []
    with _watched(layers, lambda layer, _: called.append(layer)):
        model(keras.tree.map_structure(lambda array: array[:1], first), training=False)
    for layer in called:
        if called.count(layer) > 1:
            raise ValueError(f"'{layer.path}' is called more than once; its statistics are mixed.")
    return called


def _population(
    model: keras.Model, layer: keras.layers.BatchNormalization, batches: Iterable[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of all inputs of a layer, joined from those of the batches.

    Two parts of n and m samples have, with d the difference of their means, the joint mean
    mean + d m / (n + m) and the sum of squared deviations S + T + d² n m / (n + m).
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for inputs in _inputs(batches):
        size, batch_mean, batch_variance = _moments(model, layer, inputs)
        difference = batch_mean - mean
        squares = squares + batch_variance * size + difference**2 * count * size / (count + size)
        mean = mean + difference * size / (count + size)
        count += size
    if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
        raise ValueError(f"An input of '{layer.path}' is NaN or infinite.")
    return mean, squares / count


class _Seen(BaseException):
    """The layer has its inputs: stop here. No `Exception`, which Keras would replace."""


def _moments(
    model: keras.Model, layer: keras.layers.BatchNormalization, inputs: Any
) -> tuple[int, np.ndarray, np.ndarray]:
    """How many samples a channel has in one batch, their means and their variances."""
    seen: list[Any] = []

    def keep(_: keras.Layer, x: Any) -> None:
        seen.append(x)
        raise _Seen

    with _watched([layer], keep), suppress(_Seen):
        model(inputs, training=False)
    x = ops.cast(seen[0], keras.backend.result_type(seen[0].dtype, "float32"))
    axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
    size = int(np.prod([x.shape[axis] for axis in axes]))
    mean = ops.mean(x, axes, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axes)
    results = (ops.squeeze(mean, axes), variance)
    means, variances = (np.asarray(ops.convert_to_numpy(each), np.float64) for each in results)
    return size, means, variances


@contextmanager
def _watched(
    layers: Iterable[keras.layers.BatchNormalization], see: Callable[[keras.Layer, Any], None]
) -> Iterator[None]:
    """Show the inputs of layers whenever these are called."""
    layers = list(layers)

    def watch(layer: keras.layers.BatchNormalization) -> None:
        call = layer.call

        def watched(inputs: Any, training: Any = None, mask: Any = None) -> Any:
            if mask is not None:
                raise ValueError(f"'{layer.path}' is called with a mask, which is not supported.")
            see(layer, inputs)
            return call(inputs, training=training)

        layer.call = watched

    try:
        for layer in layers:
            watch(layer)
        yield
    finally:
        for layer in layers:
            del layer.call


def _inputs(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        inputs = batch[0] if isinstance(batch, tuple) else batch
        if keras.tree.flatten(inputs)[0].shape[0] > 0:
            yield inputs
