"""The device program: steps per second against plain Adam in the same program, runs per minute side
by side against one at a time, and how near that is to what the device's arithmetic gives.

Needs KERAS_BACKEND=jax. It means something on an accelerator; on a CPU it shows that it runs.
"""

import functools
import time

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm, experiments, models
from laperm_lib.augmentation import Augmentation
from laperm_lib.device_program import DeviceProgram
from laperm_lib.experiments import catalogue

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax")

BATCH = 50
ON_CPU = keras.backend.backend() == "jax" and __import__("jax").default_backend() == "cpu"
STEPS = 50 if ON_CPU else 1000
IMAGES = BATCH * STEPS
AUGMENTATION = Augmentation(rotation=15, shift=0.1, flip=True)


def program(name, runs, sync_period):
    generator = np.random.default_rng(0)
    x = generator.random((IMAGES, *models.spec(name).input_shape), dtype=np.float32)
    y = generator.integers(0, 10, size=IMAGES)
    networks = []
    for seed in range(runs):
        model = models.build(name, seed=seed, dtype="float32" if ON_CPU else "mixed_bfloat16")
        optimizer = keras.optimizers.Adam()
        model.compile(
            LaPerm(optimizer, sync_period) if sync_period else optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        networks.append(model)
    return DeviceProgram(
        networks, x, y, batch_size=BATCH, seeds=range(runs), augmentation=AUGMENTATION
    )


@functools.cache
def product_gflops():
    """The speed of large matrix products in the same precision: the arithmetic floor."""
    import jax
    import jax.numpy as jnp

    size = 1024 if ON_CPU else 8192
    matrix = jnp.ones((size, size), "float32" if ON_CPU else "bfloat16")
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()  # compiles
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        taken.append(time.perf_counter() - started)
    return 2 * size**3 / np.median(taken) / 1e9


@functools.cache
def seconds_alone(name):
    """The median time of the steps of a single run."""
    running = program(name, 1, min(1000, STEPS))
    seconds(running)  # compiles
    return np.median([seconds(running) for _ in range(3)])


def seconds(running):
    started = time.perf_counter()
    assert np.isfinite(running.advance(STEPS)).all()  # waits for the device
    return time.perf_counter() - started


@pytest.mark.parametrize("name", ["f2"] if ON_CPU else list(models.names())[:5])
@pytest.mark.parametrize("runs", [1, 2] if ON_CPU else [1, 4, 12])
def test_steps_per_second(benchmark, name, runs):
    adam, laperm = program(name, runs, None), program(name, runs, min(1000, STEPS))
    for running in (adam, laperm):  # compiles
        seconds(running)
    pairs = []
    benchmark.pedantic(lambda: pairs.append((seconds(adam), seconds(laperm))), rounds=3)
    plain, permuting = np.array(pairs).T
    gflop = adam.flops_per_step() / 1e9
    benchmark.extra_info["Adam, steps/s of each run"] = round(STEPS / np.median(plain), 1)
    benchmark.extra_info["LaPerm, steps/s of each run"] = round(STEPS / np.median(permuting), 1)
    benchmark.extra_info["overhead, %"] = round(100 * (np.median(permuting / plain) - 1), 2)
    benchmark.extra_info["all runs, GFLOP per step"] = round(gflop, 2)
    speed = gflop * STEPS / np.median(permuting)
    benchmark.extra_info["GFLOP/s"] = round(speed)
    benchmark.extra_info["of a matrix product's speed, %"] = round(
        100 * speed / product_gflops(), 1
    )
    whole = catalogue.steps(experiments.PUBLISHED[name]) / STEPS * np.median(permuting) / 60
    benchmark.extra_info["runs of the published length per minute"] = round(runs / whole, 3)
    times = runs * seconds_alone(name) / np.median(permuting)
    benchmark.extra_info["times one at a time"] = round(times, 2)
