"""A small network with a layer of each kind and data for it, which optimizers are tried on; and
networks in other precisions."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from laperm_lib import LaPerm, SGPerm, permutation, weight_vectors

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(90, 6, 6, 2)).astype("float32")
Y = _RNG.integers(0, 3, size=90)
BATCH = 10  # nine steps an epoch
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def laperm(inner=None, **how):
    return LaPerm(inner or keras.optimizers.SGD(0.3), 4, **how)  # quicker to trace than Adam


both = pytest.mark.parametrize("make", [laperm, SGPerm])


def build_model(seed=0, filters=4):
    keras.utils.set_random_seed(seed)
    bias = {"bias_initializer": "he_uniform"}
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(filters, 3, activation="relu", name="conv", **bias),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(),
            layers.Dense(3, name="dense", **bias),
        ]
    )


def train(model, optimizer, epochs=1, x=X, y=Y, callbacks=None, **compile_arguments):
    if not model.compiled:
        model.compile(optimizer, loss=LOSS, **compile_arguments)
        if model.built and not model.optimizer.built:
            # Or TensorFlow traces the first step twice, as `test_permuting_start` lets it.
            model.optimizer.build(model.trainable_variables)
    return model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )


def matrices(model, kinds=("kernel",)):
    return {v.path: v.matrix() for v in weight_vectors.of(model, kinds)}


def assert_permuted(start, end):
    """Every matrix holds the same weight vectors in another order."""
    assert start.keys() == end.keys()
    for path, before in start.items():
        assert permutation.is_permutation(before, end[path])
        assert not np.array_equal(before, end[path])


def assert_same_weights(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@contextlib.contextmanager
def float64():
    """Keras in float64, which JAX has to be asked for."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


@contextlib.contextmanager
def dtype_policy(policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
