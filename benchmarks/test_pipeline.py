"""What augmentation adds to a step, what reading ahead takes from one, and the whole step against
the published training loop.

As in test_overhead.py, blocks of steps take turns, so that a change in the speed of the machine
meets all of them, and ratios are taken turn by turn.
"""

import importlib.util
import time
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm
from laperm_lib.batches import Batches, read_ahead
from laperm_lib.paper import networks
from laperm_lib.paper.augmentation import Augmentation

BATCH = 50
SYNC_PERIOD = 20
STEPS = 200
AUGMENTATION = Augmentation(rotation=10, zoom=0.1, shift=0.1)


def random_images(batch_size):
    """Images and classes for STEPS steps."""
    generator = np.random.default_rng(0)
    x = generator.random((batch_size * STEPS, 28, 28, 1), dtype=np.float32)
    return x, generator.integers(0, 10, size=len(x))


@pytest.fixture(scope="module")
def data():
    return random_images(BATCH)


def fit_block(data, dtype="float32"):
    """A function that trains conv7 for STEPS steps of `fit`, with augmentation or without."""
    model = networks.build("conv7", seed=0, dtype=dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # As experiments train: Python sees the training once in so many steps.
    model.compile(
        LaPerm(keras.optimizers.Adam(), SYNC_PERIOD), loss=loss, steps_per_execution=SYNC_PERIOD
    )

    def block(augmentation=AUGMENTATION):
        batches = Batches(*data, batch_size=BATCH, epochs=1, seed=0, augmentation=augmentation)
        model.fit(read_ahead(batches), epochs=1, shuffle=False, verbose=0)

    return block


def published_block(data):
    """A function that trains conv7 for STEPS steps of the published loop, with augmentation."""
    path = Path(__file__).with_name("published_loop.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    published_loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published_loop)
    model = published_loop.build("conv7", networks.build("conv7", seed=0).get_weights())
    training = published_loop.run(
        model,
        *data,
        batch_size=BATCH,
        learning_rate=lambda epoch: 1e-3,
        sync_period=SYNC_PERIOD,
        seed=0,
        augmentation=True,
    )
    return lambda: list(islice(training, STEPS))


def ms_per_step(benchmark, blocks, rounds):
    """Time blocks in turn: an array of shape (rounds, blocks)."""
    times = []

    def turn():
        # The one that goes first changes from turn to turn.
        first = len(times) % len(blocks)
        row = np.empty(len(blocks))
        for i in [*range(first, len(blocks)), *range(first)]:
            started = time.perf_counter()
            blocks[i]()
            row[i] = 1e3 * (time.perf_counter() - started) / STEPS
        times.append(row)

    for block in blocks:
        block()
    benchmark.pedantic(turn, rounds=rounds)
    return np.array(times)


def test_augmentation(benchmark, data):
    block = fit_block(data)
    times = ms_per_step(benchmark, [lambda: block(None), block], rounds=7)
    without, augmented = times.T
    benchmark.extra_info["without, ms per step"] = round(np.median(without), 2)
    benchmark.extra_info["with augmentation, ms per step"] = round(np.median(augmented), 2)
    benchmark.extra_info["overhead %"] = round(100 * (np.median(augmented / without) - 1), 2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow reads ahead")
def test_reading_ahead(benchmark):
    x, y = random_images(128)
    model = networks.build("f2", seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(LaPerm(keras.optimizers.Adam(), 250), loss=loss, steps_per_execution=50)

    def block(read):
        batches = Batches(x, y, batch_size=128, epochs=1, seed=0)
        model.fit(read(batches), epochs=1, shuffle=False, verbose=0)

    ways = [lambda: block(lambda batches: batches), lambda: block(read_ahead)]
    one_by_one, ahead = ms_per_step(benchmark, ways, rounds=15).T
    benchmark.extra_info["one by one, ms per step"] = round(np.median(one_by_one), 2)
    benchmark.extra_info["read ahead, ms per step"] = round(np.median(ahead), 2)
    benchmark.extra_info["times as fast"] = round(np.median(one_by_one / ahead), 2)


# The legacy Keras calls SciPy by an old name.
@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as the published loop")
def test_whole_step(benchmark, data):
    names = ("float32", "mixed_bfloat16")
    blocks = [published_block(data), *(fit_block(data, name) for name in names)]
    published, *ours = ms_per_step(benchmark, blocks, rounds=5).T
    benchmark.extra_info["published loop, ms per step"] = round(np.median(published), 2)
    for name, times in zip(names, ours, strict=True):
        benchmark.extra_info[f"{name}, ms per step"] = round(np.median(times), 2)
        benchmark.extra_info[f"{name}, times as fast"] = round(np.median(published / times), 2)
