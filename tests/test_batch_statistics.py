"""Statistics of batch normalisation: those of the population, layer by layer, and nothing else."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib.batch_statistics import normalizations, reestimate, reestimated
from laperm_lib.batches import Batches

X = np.random.default_rng(0).normal(2, 3, (40, 8, 8, 2)).astype("float32")


def sequential(*stack):
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def network(dtype="float32"):
    """Convolution, dense part and dropout in between, as in conv2."""
    keras.utils.set_random_seed(1)
    model = sequential(
        layers.Conv2D(5, 3, activation="relu", dtype=dtype),
        layers.BatchNormalization(dtype=dtype),
        layers.Dropout(0.5, dtype=dtype),
        layers.Conv2D(4, 3, activation="relu", dtype=dtype),
        layers.BatchNormalization(scale=False, dtype=dtype),
        layers.Flatten(dtype=dtype),
        layers.Dense(6, dtype=dtype),
        layers.BatchNormalization(dtype=dtype),
        layers.Dense(3, dtype=dtype),
    )
    for layer in normalizations(model):
        layer.moving_mean.assign(np.full(layer.moving_mean.shape, 7))
        layer.beta.assign(np.linspace(-1, 1, layer.beta.shape[0]))
    return model


def statistics(model):
    return [
        np.array(ops.convert_to_numpy(variable))
        for layer in normalizations(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def assert_equal(some, more):
    assert all(np.array_equal(*pair) for pair in zip(some, more, strict=True))


def assert_close(some, more, within=1e-4):
    for one, other in zip(some, more, strict=True):
        np.testing.assert_allclose(one, other, rtol=within, atol=within / 10)


@pytest.mark.parametrize("cuts", [[], [17], [8, 16, 24]])
def test_each_layer_has_the_statistics_of_its_inputs(cuts):
    """Whichever the batches are."""
    model = network()
    assert reestimate(model, np.split(X, cuts)) == 3
    for layer in normalizations(model):
        before = keras.Model(model.inputs[0], layer.input)
        inputs = ops.convert_to_numpy(before(X, training=False)).astype("float64")
        axes = tuple(range(inputs.ndim - 1))
        found = (layer.moving_mean, layer.moving_variance)
        assert_close(map(ops.convert_to_numpy, found), (inputs.mean(axes), inputs.var(axes)))


def test_nothing_else_is_touched():
    model = network()
    statistical = {id(v) for n in normalizations(model) for v in (n.moving_mean, n.moving_variance)}
    others = [v for v in model.variables if id(v) not in statistical]
    before = [np.array(ops.convert_to_numpy(variable)) for variable in others]
    reestimate(model, [X])
    assert_equal(map(ops.convert_to_numpy, others), before)
    assert all("call" not in vars(layer) for layer in normalizations(model))


@pytest.mark.parametrize("raised", [None, KeyError])
def test_they_come_and_go_with_a_with(raised):
    model = network()
    before = statistics(model)
    with pytest.raises(raised) if raised else nullcontext(), reestimated(model, [X]) as count:
        inside = statistics(model)
        if raised:
            raise raised
    assert count == 3
    assert_equal(before, statistics(model))
    reestimate(model, [X])
    assert_equal(inside, statistics(model))


def test_batches_of_fit_nested_models_and_models_without_batch_normalisation():
    assert reestimate(sequential(layers.Flatten()), [X]) == 0
    model = sequential(sequential(layers.BatchNormalization()), layers.Flatten(), layers.Dense(1))
    assert reestimate(model, Batches(X, np.zeros(40), batch_size=16, epochs=1, seed=0)) == 1
    assert_close(statistics(model), (X.mean((0, 1, 2)), X.var((0, 1, 2))))


def test_statistics_of_a_network_in_mixed_precision():
    exact, mixed = network(), network("mixed_bfloat16")
    mixed.set_weights(exact.get_weights())
    for model in (exact, mixed):
        reestimate(model, [X])
    assert all(array.dtype == np.float32 for array in statistics(mixed))
    assert_close(statistics(exact), statistics(mixed), within=0.1)


def test_large_means_do_not_swallow_small_variances():
    x = (np.arange(8, dtype="float32").reshape(8, 1) % 2) + np.float32(10_000)
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    reestimate(model, [x[:3], x[3:]])
    mean, variance = statistics(model)
    assert mean == pytest.approx(10_000.5)
    assert variance == pytest.approx(0.25, abs=1e-3)


def with_nan():
    x = X.copy()
    x[-1, 0, 0, 0] = np.nan
    return [X, x]


class Broken:
    passes = 0

    def __iter__(self):
        self.passes += 1
        yield X
        if self.passes == 3:  # the first layer has new statistics by then
            raise ValueError("gone")


def test_batches_that_give_no_statistics():
    model = network()
    before = statistics(model)
    for batches, message in [
        (iter([X, X]), "only once"),
        (X, "a list of batches"),
        ([], "no samples"),
        ([X[:0]], "no samples"),
        (with_nan(), "NaN or infinite"),
        (Broken(), "gone"),
    ]:
        with pytest.raises(ValueError, match=message):
            reestimate(model, batches)
        assert_equal(before, statistics(model))


def called_twice():
    shared, image = layers.BatchNormalization(), keras.Input((8, 8, 2))
    return keras.Model(image, shared(shared(image)))


def test_models_that_have_no_such_statistics():
    for model, message in [
        (keras.Sequential([layers.BatchNormalization()]), "not built"),
        (called_twice(), "more than once"),
        (sequential(layers.BatchNormalization(renorm=True)), "renorm"),
        (sequential(layers.Masking(), layers.BatchNormalization()), "mask"),
    ]:
        with pytest.raises(ValueError, match=message):
            reestimate(model, [X])
