"""Candidates per second of a gradient-free search: cached against recomputed by Keras."""

import time

import keras
import numpy as np
import pytest

from laperm_lib import weight_vectors
from laperm_lib.local_search import moves
from laperm_lib.local_search.losses import CachedLosses, RecomputedLosses
from laperm_lib.paper.networks import SmallConvNetwork

SAMPLES = 5000
EVERY = 600  # Keras measures one move in so many: all would take half an hour


def data():
    """Images that are zero where MNIST's are: four pixels of five."""
    generator = np.random.default_rng(0)
    x = generator.random((SAMPLES, 28, 28, 1), dtype=np.float32)
    x *= generator.random((1, 28, 28, 1)) < 0.2
    return x, generator.integers(0, 10, size=SAMPLES)


def search(kind, model, vectors, x, y, together, every):
    """Seconds that one visit of a variable takes, its setting up apart from its moves."""
    weights = np.array(keras.ops.convert_to_numpy(vectors.variable))
    generator = np.random.default_rng(0)
    found = moves.additions(weights, vectors.neuron_axes, float(weights.std()) + 0.01, generator)
    started = time.perf_counter()
    losses = kind(model, vectors.variable, x, y)
    ready = time.perf_counter()
    measured, number = 0, 0
    for vector in found:
        for first in range(0, len(vector.places), together):
            number += 1
            if number % every == 1 % every:
                part = slice(first, first + together)
                tried = losses.of(vector.places[part], vector.values[part])
                measured += tried.size
                losses.keep(vector.places[part][:1], vector.values[part][:1, 0])
    ended = time.perf_counter()
    return ready - started, (ended - ready) / measured, 2 * weights.size


@pytest.mark.parametrize("together", [1, 8])
def test_candidates_of_the_small_conv_net(benchmark, together):
    """One cycle through all weights, where one of the two candidates of a move is always kept."""
    (model, _), (x, y) = SmallConvNetwork().build(0), data()
    variables = weight_vectors.of(model, weight_vectors.KINDS)

    def cycle(kind, every):
        seconds = candidates = 0
        for vectors in variables:
            ready, each, count = search(kind, model, vectors, x, y, together, every)
            seconds += ready + each * count
            candidates += count
        return candidates / seconds

    cycle(CachedLosses, 100)
    cycle(RecomputedLosses, 10**9)
    rates = []
    benchmark.pedantic(
        lambda: rates.append((cycle(CachedLosses, 1), cycle(RecomputedLosses, EVERY // together))),
        rounds=1,
    )
    cached, recomputed = np.median(rates, axis=0)
    benchmark.extra_info["cached, candidates per second"] = round(cached)
    benchmark.extra_info["recomputed, candidates per second"] = round(recomputed, 1)
    benchmark.extra_info["ratio"] = round(cached / recomputed)
    assert cached > 20 * recomputed
