"""Training on two devices through Keras's own ways of doing so gives what one device gives.

Each device takes half of every batch, so gradients are sums in another order and differ in the last
bits. The devices are virtual ones of this machine's CPU, which a process must ask for before it
starts the backend: hence the processes.
"""

import os
import subprocess
import sys

import keras
import pytest

START = {
    "jax": """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras

def devices(count):
    names = keras.distribution.list_devices("cpu")[:count]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names))

def copies(model, variable):
    model.jax_state_sync()
    return [np.asarray(shard.data) for shard in variable.value.addressable_shards]
""",
    "tensorflow": """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras

def devices(count):
    return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(count)]).scope()

def copies(model, variable):
    return [copy.numpy() for copy in variable.value.values]
""",
}

TRAIN = """
from contextlib import nullcontext

import numpy as np
from laperm_lib import LaPerm, permutation, weight_vectors

PERIOD, STEPS, BATCH = 5, 12, 8
generator = np.random.default_rng(0)
x = generator.normal(size=(STEPS * BATCH, 6, 6, 2)).astype("float32")
y = generator.integers(0, 3, size=len(x))

def train(count, latent_weights):
    with devices(count) or nullcontext():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = LaPerm(keras.optimizers.Adam(0.01), PERIOD, latent_weights=latent_weights)
        model.compile(optimizer, loss=loss)
    start = [v.matrix() for v in weight_vectors.of(model)]
    synchronised = []

    class CompareCopies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            all_permuted = True
            for v, before in zip(weight_vectors.of(model), start):
                first, *others = copies(model, v.variable)
                assert len(others) == count - 1
                assert all(np.array_equal(first, other) for other in others)
                now = permutation.to_matrix(first, v.neuron_axes)
                all_permuted &= permutation.is_permutation(before, now)
            if all_permuted:
                synchronised.append(batch + 1)

    history = model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, epochs=1, callbacks=[CompareCopies()]
    )
    expected = list(range(1, STEPS + 1)) if latent_weights else [5, 10]
    assert synchronised == expected, synchronised
    assert model.optimizer.is_permutation()
    return history.history["loss"], model.get_weights()

for latent_weights in (False, True):
    loss, weights = train(1, latent_weights)
    loss_on_two, weights_on_two = train(2, latent_weights)
    np.testing.assert_allclose(loss_on_two, loss, rtol=1e-5)
    for on_two, on_one in zip(weights_on_two, weights):
        np.testing.assert_allclose(on_two, on_one, rtol=1e-3, atol=1e-5)
"""


def test_two_devices_train_as_one():
    backend = keras.backend.backend()
    if backend not in START:
        pytest.skip(f"Keras has no data parallelism of its own for {backend}")
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", START[backend] + TRAIN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
