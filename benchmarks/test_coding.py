"""Coding how the weights of a network are arranged, and arranging them as a code says."""

import numpy as np
import pytest

from laperm_lib import coding, weight_vectors
from laperm_lib.paper import networks


@pytest.fixture(scope="module", params=["conv7", "conv13"])
def network(request):
    """The weight vectors of a network at its start, in another arrangement, and the code of it."""
    vectors = weight_vectors.of(networks.build(request.param, seed=0), kinds=("kernel", "bias"))
    initial = [each.matrix() for each in vectors]
    generator = np.random.default_rng(0)
    trained = [generator.permuted(matrix, axis=1) for matrix in initial]
    return initial, trained, coding.encode(trained, initial)


def report(benchmark, initial):
    weights = sum(matrix.size for matrix in initial)
    benchmark.extra_info["weights"] = weights
    benchmark.extra_info["s"] = round(benchmark.stats.stats.median, 2)
    benchmark.extra_info["ns per weight"] = round(1e9 * benchmark.stats.stats.median / weights)


def test_encoding(benchmark, network):
    initial, trained, expected = network
    code = benchmark.pedantic(coding.encode, (trained, initial), rounds=3)
    assert code == expected
    report(benchmark, initial)
    benchmark.extra_info["bits"] = 8 * len(code)
    benchmark.extra_info["bits beyond the bound"] = 8 * len(code) - int(coding.bound_bits(initial))


def test_decoding(benchmark, network):
    initial, trained, code = network
    coding.decode(code, initial)  # compiles
    decoded = benchmark.pedantic(coding.decode, (code, initial), rounds=3)
    for ours, theirs in zip(decoded, trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    report(benchmark, initial)
