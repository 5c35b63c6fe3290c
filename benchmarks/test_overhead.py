"""What LaPerm adds to training with its inner optimizer, in the same run: time and memory.

Blocks of 20 steps with Adam and with LaPerm around Adam take turns, so that a change in the speed
of the machine meets both, and the ratio is taken pair by pair.
"""

import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm
from laperm_lib.paper import networks

BATCH = 50
BLOCK = 20


def compiled_model(name, optimizer):
    model = networks.build(name, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    return model


def pairs_of_blocks(name, sync_period, pairs):
    """Seconds of blocks with Adam and with LaPerm, shape (pairs, 2)."""
    generator = np.random.default_rng(0)
    x = generator.random((BATCH, *networks.spec(name).input_shape), dtype=np.float32)
    y = generator.integers(0, 10, size=BATCH)
    both = [
        compiled_model(name, keras.optimizers.Adam()),
        compiled_model(name, LaPerm(keras.optimizers.Adam(), sync_period)),
    ]

    def seconds(model):
        started = time.perf_counter()
        for _ in range(BLOCK):
            model.train_on_batch(x, y)
        return time.perf_counter() - started

    for model in both:
        seconds(model)
    # The one that goes first changes from pair to pair.
    return np.array(
        [
            [seconds(model) for model in both]
            if number % 2
            else [seconds(model) for model in both[::-1]][::-1]
            for number in range(pairs)
        ]
    )


def standard_error(ratios):
    """Of their median: 1.25 standard deviations, these by the median of deviations, by root n."""
    deviation = 1.48 * np.median(np.abs(ratios - np.median(ratios)))
    return 1.25 * deviation / np.sqrt(len(ratios))


@pytest.mark.parametrize(("name", "pairs"), [("conv7", 30), ("conv2", 15)])
def test_overhead_of_a_synchronisation_in_every_block(benchmark, name, pairs):
    """k = 20: the median of the ratios of pairs."""
    result = []
    benchmark.pedantic(lambda: result.append(pairs_of_blocks(name, BLOCK, pairs)), rounds=1)
    plain, permuting = result[0].T
    benchmark.extra_info["Adam, ms per step"] = round(1e3 * np.median(plain) / BLOCK, 3)
    benchmark.extra_info["LaPerm, ms per step"] = round(1e3 * np.median(permuting) / BLOCK, 3)
    ratios = permuting / plain
    benchmark.extra_info["overhead at k = 20, %"] = round(100 * (np.median(ratios) - 1), 2)
    benchmark.extra_info["standard error"] = round(100 * standard_error(ratios), 2)


@pytest.mark.parametrize(("name", "pairs"), [("conv7", 60), ("conv2", 30)])
def test_overhead_of_a_rare_synchronisation(benchmark, name, pairs):
    """k = 1000: what a step costs without synchronisation, plus a thousandth of what one costs.

    Measured at k = 100, where every fifth block has one, for at k = 1000 there would be too few.
    """
    result = []
    benchmark.pedantic(lambda: result.append(pairs_of_blocks(name, 5 * BLOCK, pairs)), rounds=1)
    plain, permuting = result[0].T
    # The block to warm up was the first of the five.
    synchronised = np.arange(pairs) % 5 == 3
    ratios = permuting / plain
    without = np.median(ratios[~synchronised]) - 1
    one = (np.median(ratios[synchronised]) - 1 - without) * BLOCK  # in steps of Adam
    benchmark.extra_info["a step without synchronisation, %"] = round(100 * without, 2)
    benchmark.extra_info["a synchronisation, ms"] = round(1e3 * one * np.median(plain) / BLOCK, 2)
    benchmark.extra_info["overhead at k = 1000, %"] = round(100 * (without + one / 1000), 2)
    benchmark.extra_info["standard error"] = round(100 * standard_error(ratios[~synchronised]), 2)


MEMORY = """
import resource, sys
import keras, numpy as np
from laperm_lib import LaPerm
from laperm_lib.paper import networks
name, k = sys.argv[1], int(sys.argv[2])
model = networks.build(name, seed=0)
optimizer = keras.optimizers.Adam()
model.compile(
    LaPerm(optimizer, k) if k else optimizer,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
x = np.zeros((50, *networks.spec(name).input_shape), "float32")
for _ in range(6):
    model.train_on_batch(x, np.zeros(50, int))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_megabytes(name, sync_period):
    """Peak resident memory of a process that trains for six steps."""
    printed = subprocess.run(
        [sys.executable, "-c", MEMORY, name, str(sync_period)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ,
    ).stdout
    return float(printed.split()[-1])


def permuted_megabytes(name):
    model = networks.build(name, seed=0)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    return sum(4 * np.prod(v.shape) for v in kernels) / 2**20


def test_memory(benchmark):
    """Peak memory against Adam's, in float32 copies of the permuted weights of conv13.

    What synchronising itself takes, Numba and its code above all, has nothing to do with the size
    of a network. conv7 has 1.2 MiB of weights, so what LaPerm adds to it is that.
    """
    peaks = {(name, period): [] for name in ("conv7", "conv13") for period in (0, 2)}

    def measure():
        for name, period in peaks:
            peaks[name, period].append(peak_megabytes(name, period))

    benchmark.pedantic(measure, rounds=3)
    median = {key: np.median(values) for key, values in peaks.items()}
    added = {name: median[name, 2] - median[name, 0] for name in ("conv7", "conv13")}
    copy = permuted_megabytes("conv13")
    code = added["conv7"] - permuted_megabytes("conv7")
    benchmark.extra_info["Adam, MiB"] = round(median["conv13", 0])
    benchmark.extra_info["LaPerm, MiB"] = round(median["conv13", 2])
    benchmark.extra_info["one copy of the weights, MiB"] = round(copy)
    benchmark.extra_info["code, MiB"] = round(code)
    benchmark.extra_info["copies more, beside the code"] = round((added["conv13"] - code) / copy, 2)
