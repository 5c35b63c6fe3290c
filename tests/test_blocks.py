"""The arithmetic of blocks: activations as Keras has them, convolutions with and without Numba."""

import keras
import numpy as np
import pytest
from keras import ops

from laperm_lib.local_search import blocks


@pytest.mark.parametrize("name", blocks.ACTIVATIONS)
def test_activations_are_those_of_keras(name):
    x = np.concatenate([np.linspace(-30, 30, 301), [0.0, -0.0]]).astype("float32")
    expected = ops.convert_to_numpy(keras.activations.get(name)(ops.convert_to_tensor(x)))
    ours = blocks.ACTIVATIONS[name](x)
    assert ours.dtype == "float32"
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.skipif(not blocks.available, reason="needs Numba")
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_without_numba_a_convolution_is_the_same(strides, padding):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(3, 7, 8, 2)) * (generator.random((3, 7, 8, 2)) < 0.5)
    kernel = generator.normal(size=(3, 4, 2, 5))
    size = [
        (n + p - k) // s + 1 for n, p, k, s in zip((7, 8), padding, (3, 4), strides, strict=True)
    ]
    ours, expected = np.ones((3, *size, 5)), np.ones((3, *size, 5))
    blocks._scatter(inputs, kernel, ours, *strides, *padding)
    blocks.add_convolution(inputs, kernel, expected, strides, padding)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
