"""Time of SGPerm's steps, on the CPU: against loops over places, by length of vectors and parts."""

import time

import keras
import numpy as np
import pytest

from laperm_lib import SGPerm, weight_vectors
from laperm_lib._random import raw_bits
from laperm_lib.cycles import reference as cycles
from laperm_lib.cycles.step import CycleSearch
from laperm_lib.paper import networks

BATCH = 128
EVERY = 10  # of the weight vectors, the loops permute one in so many: all would take minutes


def cycle_search(alpha, ratio):
    """Constant aggressiveness and partition ratio."""
    return CycleSearch(
        alpha0=alpha,
        alpha_min=alpha,
        beta1=1.0,
        lambda0=ratio,
        lambda_max=1.0,
        beta2=1.0,
        momentum=0.9,
        partition_size_min=10,
        seed=0,
    )


def state(shapes):
    """For each kernel: weights, recommendations, gradients, all as a network holds them."""
    generator = np.random.default_rng(0)
    return [
        tuple(generator.uniform(-1, 1, shape).astype(np.float32) for _ in range(3))
        for shape in shapes
    ]


def compiled_step(how, kernels, step=0):
    """All that one step of SGPerm does on the host."""
    new = []
    for number, (weights, previous, gradient) in enumerate(kernels):
        wishes = cycles.recommend(previous, gradient, learning_rate=0.01, momentum=0.9)
        spread = np.full(weights.shape[-1], 2, np.float32)
        where = {"neuron_axes": (-1,), "number": number, "step": step}
        new.append(how.permute(weights, wishes, spread, **where))
    return new


def loops_step(how, kernels, every):
    """The same in loops over places, for one weight vector in `every`."""
    new = []
    for number, (weights, previous, gradient) in enumerate(kernels):
        wishes = cycles.recommend(previous, gradient, learning_rate=0.01, momentum=0.9)
        d, neurons = weights.shape
        words = raw_bits(how.seed, f"sgperm/{number}/0").random_raw(weights.size)
        places = cycles.shuffle(words.reshape(neurons, d))
        size = cycles.part_size(d, how.partition_ratio(0), how.partition_size_min)
        alpha = how.aggressiveness(0)
        new.append(
            [
                cycles.permute_vector(
                    weights[:, i], wishes[:, i], places[i], size=size, alpha=alpha, spread=2.0
                )
                for i in range(0, neurons, every)
            ]
        )
    return new


# The published code took 0.61, 0.88, 6.8 and 25 s for these.
@pytest.mark.parametrize(("ratio", "alpha"), [(0.001, 0.01), (0.05, 0.1), (0.3, 0.1), (1.0, 0.1)])
def test_step_of_an_mlp(benchmark, ratio, alpha):
    """784-100-10: the loops, and the compiled search, in one run."""
    how = cycle_search(alpha, ratio)
    kernels = state([(784, 100), (100, 10)])
    new = compiled_step(how, kernels)
    started = time.perf_counter()
    expected = loops_step(how, kernels, EVERY)
    loops = EVERY * (time.perf_counter() - started)
    for ours, theirs in zip(new, expected, strict=True):  # the same bits
        np.testing.assert_array_equal(ours.T[::EVERY], theirs)
    benchmark.pedantic(compiled_step, (how, kernels), rounds=25)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["loops, ms"] = round(1e3 * loops)
    benchmark.extra_info["compiled, ms"] = round(1e3 * seconds, 2)
    benchmark.extra_info["ratio"] = round(loops / seconds)


def test_step_of_conv7(benchmark):
    """The permuting in one step of conv7, with the default hyperparameters."""
    how = SGPerm().search
    shapes = [tuple(v.variable.shape) for v in weight_vectors.of(networks.build("conv7", seed=0))]
    kernels = state(shapes)
    compiled_step(how, kernels)
    benchmark.pedantic(compiled_step, (how, kernels), rounds=15)
    benchmark.extra_info["weights"] = sum(weights.size for weights, *_ in kernels)
    benchmark.extra_info["ms"] = round(1e3 * benchmark.stats.stats.median, 1)


LENGTHS = (10, 100, 1000, 10_000)


@pytest.mark.parametrize(
    ("d", "size"), [(d, size) for d in LENGTHS for size in LENGTHS if size <= d]
)
def test_cost_per_weight(benchmark, d, size):
    """200,000 weights in vectors of d, in parts of a size; the loops on one vector or more."""
    how = cycle_search(0.1, size / d)
    kernels = state([(d, 200_000 // d)])
    compiled_step(how, kernels)
    every = max(1, kernels[0][0].shape[1] * min(d, 1000) // 2000)  # some 2,000 weights
    started = time.perf_counter()
    done = sum(len(vectors) * d for vectors in loops_step(how, kernels, every))
    loops = (time.perf_counter() - started) / done
    benchmark.pedantic(compiled_step, (how, kernels), rounds=9)
    seconds = benchmark.stats.stats.median / 200_000
    benchmark.extra_info["ns per weight"] = round(1e9 * seconds, 1)
    benchmark.extra_info["loops, ns per weight"] = round(1e9 * loops)
    benchmark.extra_info["ratio"] = round(loops / seconds)


def mlp():
    layers = keras.layers
    dense = [layers.Dense(100, activation="relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), *dense])


@pytest.mark.parametrize("name", ["784-100-10", "conv7"])
def test_training_step(benchmark, name):
    """Blocks of `fit` with SGPerm and with Adam take turns."""
    build = {"784-100-10": mlp, "conv7": lambda: networks.build("conv7", seed=0)}[name]
    steps = {"784-100-10": 100, "conv7": 10}[name]
    generator = np.random.default_rng(0)
    x = generator.random((BATCH * steps, 28, 28, 1), dtype=np.float32)
    y = generator.integers(0, 10, size=len(x))
    ours, adam = build(), build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours.compile(SGPerm(), loss=loss)
    adam.compile(keras.optimizers.Adam(), loss=loss)
    pairs = []

    def block(model):
        started = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        return (time.perf_counter() - started) / steps

    for model in (ours, adam):
        block(model)
    benchmark.pedantic(lambda: pairs.append((block(ours), block(adam))), rounds=5)
    sgperm_seconds, adam_seconds = np.median(pairs, axis=0)
    benchmark.extra_info["SGPerm, ms per step"] = round(1e3 * sgperm_seconds, 2)
    benchmark.extra_info["Adam, ms per step"] = round(1e3 * adam_seconds, 2)
