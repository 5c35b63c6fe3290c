"""Coding how the weights of a network are arranged, and decoding it."""

import time

import numpy as np
import pytest

from laperm_lib import coding, models, weight_vectors


def arranged(name):
    """The weight vectors of a network at its start, and in another arrangement."""
    vectors = weight_vectors.of(models.build(name, seed=0), kinds=("kernel", "bias"))
    initial = [each.matrix() for each in vectors]
    generator = np.random.default_rng(0)
    return [generator.permuted(matrix, axis=1) for matrix in initial], initial


@pytest.mark.parametrize("name", ["conv7", "conv13"])
def test_coding_of_a_network(benchmark, name):
    trained, initial = arranged(name)
    weights = sum(matrix.size for matrix in initial)
    code = coding.encode(trained, initial)
    encoding = []

    def once():
        started = time.perf_counter()
        assert coding.encode(trained, initial) == code
        encoding.append(time.perf_counter() - started)
        return coding.decode(code, initial)

    coding.decode(code, initial)
    decoded = benchmark.pedantic(once, rounds=3)
    for ours, theirs in zip(decoded, trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    seconds = float(np.median(encoding))
    benchmark.extra_info["weights"] = weights
    benchmark.extra_info["encoding, s"] = round(seconds, 2)
    benchmark.extra_info["decoding, s"] = round(benchmark.stats.stats.median - seconds, 2)
    benchmark.extra_info["bits per weight"] = round(8 * len(code) / weights, 4)
    benchmark.extra_info["bound, bits per weight"] = round(coding.bound_bits(initial) / weights, 4)
