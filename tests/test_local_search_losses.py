"""Cached losses against those that Keras recomputes."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import float64

from laperm_lib.local_search.losses import CachedLosses, RecomputedLosses

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 8, 8, 2))
Y = RNG.integers(0, 5, size=70)
# With JAX and torch, Keras 3.15 computes a part of a float64 network in float32: tanh, products.
RTOL = 1e-12 if BACKEND == "tensorflow" else 1e-6


def build(normalised, dtype="float64"):
    keras.utils.set_random_seed(3)
    kwargs = {"dtype": dtype}
    model = keras.Sequential([keras.Input((8, 8, 2), dtype=dtype)])
    activation = None if normalised else "relu"
    model.add(
        layers.Conv2D(4, 3, strides=2, padding="same", activation=activation, name="a", **kwargs)
    )
    if normalised:
        model.add(layers.BatchNormalization(name="bn", **kwargs))
        model.add(layers.ReLU(**kwargs))
    model.add(layers.Conv2D(5, 2, activation="tanh", name="b", **kwargs))
    model.add(layers.MaxPooling2D(2, strides=1, **kwargs))
    model.add(layers.Flatten(**kwargs))
    model.add(layers.Dropout(0.5, **kwargs))
    model.add(layers.Dense(6, activation="relu", name="c", **kwargs))
    if normalised:
        model.add(layers.BatchNormalization(name="bn_c", **kwargs))
    model.add(layers.Dense(5, name="d", **kwargs))
    for variable in model.trainable_variables:
        value = ops.convert_to_numpy(variable)
        variable.assign(value + 0.1 * RNG.normal(size=value.shape))
    return model


def variables():
    """The names of all that is trained, with and without batch normalisation."""
    names = [f"{layer}/{name}" for layer in "abcd" for name in ("kernel", "bias")]
    cases = [(False, name) for name in names]
    normalised = [f"{layer}/{name}" for layer in ("bn", "bn_c") for name in ("gamma", "beta")]
    return cases + [(True, name) for name in [*names, *normalised]]


def variable_of(model, name):
    layer, name = name.split("/")
    return getattr(model.get_layer(layer), name)


@pytest.mark.parametrize(("normalised", "name"), variables())
def test_losses_are_those_of_keras(normalised, name):
    """One weight or two at a time, of the same channel and of others, before and after changes."""
    with float64():
        model = build(normalised)
        variable = variable_of(model, name)
        ours = CachedLosses(model, variable, X, Y)
        theirs = RecomputedLosses(model, variable, X, Y)
        size = int(np.prod(variable.shape))
        for count in (1, 2):
            moves = min(size // 2, 7)
            places = RNG.permutation(size)[: moves * count].reshape(moves, count)
            values = RNG.normal(size=(moves, 3, count))
            found, expected = ours.of(places, values), theirs.of(places, values)
            assert found.shape == (moves, 3)
            # The losses differ, or this would show nothing; but not by a bias before normalisation.
            assert (np.ptp(expected) > max(1e-9, RTOL)) != (normalised and name == "a/bias")
            np.testing.assert_allclose(found, expected, rtol=RTOL)
            for losses in (ours, theirs):
                losses.keep(places[:3], values[:3, 1])
            assert ours.loss == pytest.approx(theirs.loss, rel=RTOL)
            np.testing.assert_allclose(
                ours.of(places, values), theirs.of(places, values), rtol=RTOL
            )


def test_measuring_changes_nothing():
    model = build(normalised=True, dtype="float32")
    before = model.get_weights()
    places, values = np.array([[0], [5]]), np.ones((2, 1, 1), "float32")
    for kind in (CachedLosses, RecomputedLosses):
        losses = kind(model, model.get_layer("b").kernel, X.astype("float32"), Y)
        start = losses.loss
        first = losses.of(places, values)
        np.testing.assert_array_equal(losses.of(places, values), first)
        assert losses.loss == start
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["a/kernel", "b/kernel", "d/kernel"])
def test_float32_is_as_exact_as_float32_is(name):
    model = build(normalised=False, dtype="float32")
    x = X.astype("float32")
    variable = variable_of(model, name)
    ours, theirs = CachedLosses(model, variable, x, Y), RecomputedLosses(model, variable, x, Y)
    places = np.arange(20)[:, None]
    values = RNG.normal(size=(20, 2, 1)).astype("float32")
    np.testing.assert_allclose(ours.of(places, values), theirs.of(places, values), rtol=2e-5)


def test_large_logits_do_not_overflow():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    x, y = np.ones((4, 2), "float32"), np.array([0, 1, 2, 0])
    losses = CachedLosses(model, model.layers[0].kernel, x, y)
    found = losses.of(np.array([[0]]), np.array([[[1e4], [-1e4]]], "float32"))
    assert np.isfinite(found).all()
    assert (found > 1000).all()


def test_a_variable_of_another_model_is_refused():
    model, other = (build(normalised=False, dtype="float32") for _ in range(2))
    with pytest.raises(ValueError, match="belongs to no layer"):
        CachedLosses(model, other.get_layer("a").kernel, X, Y)
