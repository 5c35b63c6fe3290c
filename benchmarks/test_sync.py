"""Time to synchronise all kernels of a network once, on the CPU."""

import keras
import numpy as np
import pytest

from laperm_lib import permutation, weight_vectors
from laperm_lib.paper import networks
from laperm_lib.synchronisation import compiled

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def with_numba(weights, sorted_initial):
    return compiled.reconnect_columns(weights, sorted_initial)


def with_numpy(weights, sorted_initial):
    new = []
    for matrix, initial in zip(weights, sorted_initial, strict=True):
        rows = permutation.reconnect(permutation.to_matrix(matrix, (-1,)), initial)
        new.append(np.ascontiguousarray(permutation.from_matrix(rows, matrix.shape, (-1,))))
    return new


def with_two_argsorts(weights, sorted_initial):
    """As the published code does it: ranks by two argsorts in TensorFlow, then a gather."""
    new = []
    for matrix, initial in zip(weights, sorted_initial, strict=True):
        ranks = tf.argsort(tf.argsort(tf.transpose(matrix), axis=1), axis=1)
        new.append(tf.transpose(tf.gather(initial, ranks, batch_dims=1)).numpy())
    return new


def trained(initial, generator):
    """Weights (d, neurons) that have left their sorted initial values (neurons, d) by training."""
    noise = generator.normal(scale=0.3 * initial.std(), size=initial.shape)
    return np.ascontiguousarray((initial + noise).T.astype(np.float32))


def run(benchmark, synchronise, weights, sorted_initial, rounds):
    for new, expected in zip(  # the same bits, and a warm-up
        synchronise(weights, sorted_initial), with_numpy(weights, sorted_initial), strict=True
    ):
        np.testing.assert_array_equal(new, expected)
    benchmark.pedantic(synchronise, (weights, sorted_initial), rounds=rounds)
    size = sum(matrix.size for matrix in weights)
    benchmark.extra_info["ns per weight (median)"] = round(
        1e9 * benchmark.stats.stats.median / size, 2
    )


def skip_where_it_cannot_run(synchronise):
    if synchronise is with_two_argsorts and keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")


@pytest.mark.parametrize("name", ["conv7", "conv2", "conv13"])
@pytest.mark.parametrize("synchronise", [with_numba, with_numpy, with_two_argsorts])
def test_sync(benchmark, name, synchronise):
    skip_where_it_cannot_run(synchronise)
    generator = np.random.default_rng(0)
    kernels = [vectors.matrix() for vectors in weight_vectors.of(networks.build(name, seed=0))]
    weights = [trained(matrix, generator) for matrix in kernels]
    initial = [permutation.sort_values(matrix) for matrix in kernels]
    run(benchmark, synchronise, weights, initial, rounds=15)


@pytest.mark.parametrize("length", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("crowded", [False, True])
def test_sync_of_a_hundred_million_weights(benchmark, length, crowded):
    """Crowded: an outlier in each vector leaves nearly all weights to one bucket."""
    generator = np.random.default_rng(0)
    initial = generator.random((10**8 // length, length), dtype=np.float32) - np.float32(0.5)
    weights = np.ascontiguousarray(initial.T) + np.float32(0.1)
    weights += generator.random(weights.shape, dtype=np.float32)
    if crowded:
        weights[length // 2] = 1e30
    initial.sort(axis=1)
    run(benchmark, with_numba, [weights], [initial], rounds=3)
