"""Statistics of batch normalisation: those of the population, layer by layer, and nothing else."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from keras import layers, ops

from laperm_lib.batch_statistics import reestimate, reestimated
from laperm_lib.batches import Batches

X = np.random.default_rng(0).normal(2, 3, (40, 8, 8, 2)).astype("float32")


def network(dtype="float32"):
    """Convolution, dense part and dropout in between, as in conv2."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2), dtype="float32"),
            layers.Conv2D(5, 3, activation="relu", dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dropout(0.5, dtype=dtype),
            layers.Conv2D(4, 3, activation="relu", dtype=dtype),
            layers.BatchNormalization(scale=False, dtype=dtype),
            layers.Flatten(dtype=dtype),
            layers.Dense(6, dtype=dtype),
            layers.BatchNormalization(dtype=dtype),
            layers.Dense(3, dtype=dtype),
        ]
    )
    for layer in normalizations(model):
        layer.moving_mean.assign(np.full(layer.moving_mean.shape, 7))
        layer.beta.assign(np.linspace(-1, 1, layer.beta.shape[0]))
    return model


def normalizations(model):
    return [
        layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)
    ]


def statistics(model):
    return [
        np.array(ops.convert_to_numpy(variable))
        for layer in normalizations(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def test_each_layer_has_the_statistics_of_its_inputs():
    model = network()
    assert reestimate(model, [X[:17], X[17:]]) == 3
    for layer in normalizations(model):
        before = keras.Model(model.inputs[0], layer.input)
        inputs = ops.convert_to_numpy(before(X, training=False)).astype("float64")
        axes = tuple(range(inputs.ndim - 1))
        np.testing.assert_allclose(
            ops.convert_to_numpy(layer.moving_mean), inputs.mean(axes), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(layer.moving_variance), inputs.var(axes), rtol=1e-4, atol=1e-5
        )


@hypothesis_settings(max_examples=10)
@given(cuts=st.sets(st.sampled_from([8, 16, 24])), order=st.permutations(range(40)))
def test_neither_batches_nor_order_matter(cuts, order):
    one, other = network(), network()
    reestimate(one, [X])
    reestimate(other, np.split(X[order], sorted(cuts)))
    for first, second in zip(statistics(one), statistics(other), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_nothing_else_is_touched():
    model = network()
    statistical = {id(v) for n in normalizations(model) for v in (n.moving_mean, n.moving_variance)}
    others = [v for v in model.variables if id(v) not in statistical]
    before = [np.array(ops.convert_to_numpy(variable)) for variable in others]
    reestimate(model, [X])
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert all("call" not in vars(layer) for layer in normalizations(model))


def test_they_come_and_go_with_a_with():
    model = network()
    before = statistics(model)
    with reestimated(model, [X]) as count:
        inside = statistics(model)
    assert count == 3
    reestimate(model, [X])
    for first, second in zip(inside, statistics(model), strict=True):
        np.testing.assert_array_equal(first, second)
    other = network()
    with pytest.raises(KeyError), reestimated(other, [X]):
        raise KeyError
    for first, second in zip(before, statistics(other), strict=True):
        np.testing.assert_array_equal(first, second)


def test_batches_of_fit_and_nested_models():
    inner = keras.Sequential([keras.Input((8, 8, 2)), layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((8, 8, 2)), inner, layers.Flatten(), layers.Dense(1)])
    assert reestimate(model, Batches(X, np.zeros(40), batch_size=16, epochs=1, seed=0)) == 1
    mean, variance = statistics(model)
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, X.var((0, 1, 2)), rtol=1e-4)


def test_statistics_of_a_network_in_mixed_precision():
    exact, mixed = network(), network("mixed_bfloat16")
    mixed.set_weights(exact.get_weights())
    for model in (exact, mixed):
        reestimate(model, [X])
    for first, second in zip(statistics(exact), statistics(mixed), strict=True):
        assert second.dtype == np.float32
        np.testing.assert_allclose(first, second, rtol=0.1, atol=0.1)


def test_large_means_do_not_swallow_small_variances():
    x = (np.arange(8, dtype="float32").reshape(8, 1) % 2) + np.float32(10_000)
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    reestimate(model, [x[:3], x[3:]])
    mean, variance = statistics(model)
    assert mean == pytest.approx(10_000.5)
    assert variance == pytest.approx(0.25, abs=1e-3)


def test_a_model_without_batch_normalisation():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    assert reestimate(model, [np.ones((3, 2), "float32")]) == 0


class Once:
    def __init__(self, batches):
        self.left = batches

    def __iter__(self):
        return self

    def __next__(self):
        return self.left.pop()


def with_nan():
    x = X.copy()
    x[-1, 0, 0, 0] = np.nan
    return [X, x]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (Once([X, X]), "only once"),
        (X, "a list of batches"),
        ([], "no samples"),
        ([X[:0]], "no samples"),
        (with_nan(), "NaN or infinite"),
    ],
)
def test_batches_that_give_no_statistics(batches, message):
    model = network()
    before = statistics(model)
    with pytest.raises(ValueError, match=message):
        reestimate(model, batches)
    for first, second in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(first, second)


def test_data_that_end_in_an_error_leave_the_old_statistics():
    class Broken:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield X
            if self.passes == 3:  # the first layer has new statistics by then
                raise OSError("gone")

    model = network()
    before = statistics(model)
    with pytest.raises(OSError, match="gone"):
        reestimate(model, Broken())
    for first, second in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(first, second)


def test_models_that_have_no_such_statistics():
    with pytest.raises(ValueError, match="not built"):
        reestimate(keras.Sequential([layers.BatchNormalization()]), [X])
    shared = layers.BatchNormalization()
    image = keras.Input((8, 8, 2))
    with pytest.raises(ValueError, match="more than once"):
        reestimate(keras.Model(image, shared(shared(image))), [X])
    renormalised = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(renorm=True)])
    with pytest.raises(ValueError, match="renorm"):
        reestimate(renormalised, [np.ones((3, 2), "float32")])
    masked = keras.Sequential([keras.Input((4, 2)), layers.Masking(), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="mask"):
        reestimate(masked, [np.ones((3, 4, 2), "float32")])
