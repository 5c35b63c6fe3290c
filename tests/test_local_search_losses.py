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
    how = {"dtype": dtype}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2), dtype=dtype),
            layers.Conv2D(4, 3, 2, padding="same", name="a", **how),
            *([layers.BatchNormalization(name="bn", **how)] if normalised else []),
            layers.ReLU(**how),
            layers.Conv2D(5, 2, activation="tanh", name="b", **how),
            layers.MaxPooling2D(2, strides=1, **how),
            layers.Flatten(**how),
            layers.Dropout(0.5, **how),
            layers.Dense(6, activation="relu", name="c", **how),
            *([layers.BatchNormalization(name="bn_c", **how)] if normalised else []),
            layers.Dense(5, name="d", **how),
        ]
    )
    for variable in model.trainable_variables:
        value = ops.convert_to_numpy(variable)
        variable.assign(value + 0.1 * RNG.normal(size=value.shape))
    return model


def variables():
    """The names of all that is trained, with and without batch normalisation."""
    names = [f"{layer}/{name}" for layer in "abcd" for name in ("kernel", "bias")]
    cases = [(False, name) for name in ("a/kernel", "b/bias", "c/kernel", "d/kernel")]
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
        weights = model.get_weights()
        ours = CachedLosses(model, variable, X, Y)
        theirs = RecomputedLosses(model, variable, X, Y)
        size = int(np.prod(variable.shape))
        for count in (1, 2):
            moves = min(size // 2, 3)
            places = RNG.permutation(size)[: moves * count].reshape(moves, count)
            values = RNG.normal(size=(moves, 3, count))
            found, expected = ours.of(places, values), theirs.of(places, values)
            assert found.shape == (moves, 3)
            for old, new in zip(weights, model.get_weights(), strict=True):
                assert count > 1 or np.array_equal(old, new)  # measuring changes nothing
            # The losses differ, or this would show nothing; but not by a bias before normalisation.
            assert (np.ptp(expected) > max(1e-9, RTOL)) != (normalised and name == "a/bias")
            np.testing.assert_allclose(found, expected, rtol=RTOL)
            for losses in (ours, theirs):
                losses.keep(places[:2], values[:2, 1])
            assert ours.loss == pytest.approx(theirs.loss, rel=RTOL)
            np.testing.assert_allclose(
                ours.of(places, values), theirs.of(places, values), rtol=RTOL
            )


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
