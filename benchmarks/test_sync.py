"""Time to synchronise all kernels of a network once, on the CPU."""

import keras
import numpy as np
import pytest

from laperm_lib import compiled, models, permutation, weight_vectors

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def with_numba(weights, sorted_initial):
    return compiled.reconnect_columns(weights, sorted_initial)


def with_numpy(weights, sorted_initial):
    new = permutation.reconnect(permutation.to_matrix(weights, (-1,)), sorted_initial)
    return np.ascontiguousarray(permutation.from_matrix(new, weights.shape, (-1,)))


def with_two_argsorts(weights, sorted_initial):
    """As the published code does it: ranks by two argsorts in TensorFlow, then a gather."""
    ranks = tf.argsort(tf.argsort(tf.transpose(weights), axis=1), axis=1)
    return tf.transpose(tf.gather(sorted_initial, ranks, batch_dims=1)).numpy()


@pytest.fixture(scope="module", params=["conv7", "conv2", "conv13"])
def kernels(request):
    """Pairs (weights (d, neurons), sorted initial values (neurons, d)), one per kernel."""
    generator = np.random.default_rng(0)
    pairs = []
    for vectors in weight_vectors.of(models.build(request.param, seed=0)):
        initial = vectors.matrix()
        noise = generator.normal(scale=0.3 * initial.std(), size=initial.shape)
        weights = np.ascontiguousarray((initial + noise).T.astype(np.float32))
        pairs.append((weights, permutation.sort_values(initial)))
    return pairs


@pytest.mark.parametrize("synchronise", [with_numba, with_numpy, with_two_argsorts])
def test_sync(benchmark, kernels, synchronise):
    if synchronise is with_numba and not compiled.available:
        pytest.skip("needs Numba")
    if synchronise is with_two_argsorts and keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    for weights, initial in kernels:  # the same bits, and a warm-up
        expected = with_numpy(weights, initial)
        np.testing.assert_array_equal(synchronise(weights, initial), expected)
    benchmark.pedantic(
        lambda: [synchronise(weights, initial) for weights, initial in kernels], rounds=9
    )
    size = sum(weights.size for weights, _ in kernels)
    benchmark.extra_info["ns per weight (median)"] = round(
        1e9 * benchmark.stats.stats.median / size, 2
    )
