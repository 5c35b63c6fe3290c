"""A small network with a layer of each kind and data for it, which optimizers are tried on; and
float64 for networks that are compared to the last bits."""

import contextlib

import keras
import numpy as np
from keras import layers

from laperm_lib import weight_vectors

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(90, 6, 6, 2)).astype("float32")
Y = _RNG.integers(0, 3, size=90)
BATCH = 10  # nine steps an epoch


def build_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu", name="conv", bias_initializer="he_uniform"),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(),
            layers.Dense(3, name="dense", bias_initializer="he_uniform"),
        ]
    )


def train(model, optimizer, epochs=1, x=X, y=Y, callbacks=None, **compile_arguments):
    if not model.compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss, **compile_arguments)
        if model.built and not model.optimizer.built:
            # Or TensorFlow traces the first step twice, as `test_permuting_start` lets it.
            model.optimizer.build(model.trainable_variables)
    return model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )


def matrices(model, kinds=("kernel",)):
    return {v.path: v.matrix() for v in weight_vectors.of(model, kinds)}


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
