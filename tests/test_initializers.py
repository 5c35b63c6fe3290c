import hashlib

import keras
import numpy as np
import pytest
from keras.src.initializers.random_initializers import compute_fans

from laperm_lib.initializers import DISTRIBUTIONS, SeededInitializer

# SHA-256 (first 32 digits) of the little-endian float32 values for seed 42, "conv2d_1/kernel".
# They must never change: published seeds would no longer mean the same network.
GOLDEN = {
    ("glorot_uniform", (3, 3, 4, 8)): "5175245da2944d2e83776ed94c1fdbf6",
    ("glorot_uniform", (10,)): "c5064d873d2aadeb09cdeb82159ed837",
    ("he_normal", (3, 3, 4, 8)): "2e0ef15d6e2e1c24cd85fd983953c6f6",
    ("he_normal", (10,)): "211a29772b7e03400fec05c8c1882c1b",
    ("he_uniform", (3, 3, 4, 8)): "36d699d403d37416445c6141d13f5fec",
    ("he_uniform", (10,)): "11099247b94cbc593e84932ac649ff2e",
}


def standard_deviation(distribution, fan_in, fan_out):
    if distribution == "glorot_uniform":
        return (2 / (fan_in + fan_out)) ** 0.5
    return (2 / fan_in) ** 0.5


@pytest.mark.parametrize(("distribution", "shape"), GOLDEN)
def test_bits_are_the_guaranteed_ones(distribution, shape):
    tensor = SeededInitializer(distribution, 42, "conv2d_1/kernel")(shape)
    values = keras.ops.convert_to_numpy(tensor)
    assert values.shape == shape
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    assert digest.startswith(GOLDEN[distribution, shape])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(200, 300), (5, 5, 40, 60), (3, 50, 400), (30_000,)])
def test_moments_and_limits_are_those_of_keras(distribution, shape):
    fan_in, fan_out = compute_fans(shape)
    values = SeededInitializer(distribution, 0, "w").values(shape).astype(np.float64)
    theory = standard_deviation(distribution, fan_in, fan_out)
    count = values.size
    assert abs(values.mean()) < 5 * theory / count**0.5
    assert abs(values.std() / theory - 1) < 5 / count**0.5
    stretch = 2 / 0.87962566103423978 if distribution == "he_normal" else 3**0.5
    limit = np.float32(stretch * theory)
    assert 0.98 * limit < values.max() <= limit
    assert -limit <= values.min() < -0.98 * limit
    assert not (values == 0).any()
    theirs = keras.initializers.get(distribution)
    theirs.seed = 1
    keras_values = keras.ops.convert_to_numpy(theirs(shape))
    assert abs(values.std() / keras_values.std() - 1) < 10 / count**0.5


@pytest.mark.parametrize("n", [2, 3, 4, 16, 256])
def test_levels_are_equally_likely_and_have_the_variance_of_he(n):
    values = SeededInitializer(f"he_{n}_levels", 0, "w").values((50, 4000)).astype(np.float64)
    levels, counts = np.unique(values, return_counts=True)
    assert len(levels) == n
    np.testing.assert_allclose(np.diff(levels), np.ptp(levels) / (n - 1), rtol=1e-4)
    np.testing.assert_allclose(levels, -levels[::-1])
    assert (abs(counts - values.size / n) < 5 * (values.size / n) ** 0.5).all()
    np.testing.assert_allclose((levels**2).mean(), 2 / 50, rtol=1e-6)
    assert (0 in levels) == n % 2


@pytest.mark.parametrize("name", ["he_1_levels", "he_0_levels", "he_levels", "he_2_levels ", 2])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="Unknown initializer"):
        SeededInitializer(name, 0, "w")


def test_truncated_normal_has_the_right_shape():
    values = SeededInitializer("he_normal", 3, "w").values((2, 400_000))
    standard = values * np.float64(0.87962566103423978)  # fan_in = 2: unit variance after scaling
    # P(|z| < 1) and P(|z| < 0.5) of a standard normal truncated at 2.
    assert np.mean(abs(standard) < 1.0) == pytest.approx(0.682689 / 0.954500, abs=2e-3)
    assert np.mean(abs(standard) < 0.5) == pytest.approx(0.382925 / 0.954500, abs=2e-3)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_streams_and_seeds_are_independent(distribution):
    values = [
        SeededInitializer(distribution, seed, stream).values((100, 200)).ravel()
        for seed, stream in [(0, "a"), (0, "b"), (1, "a"), (10, "a"), (1, "0/a"), (2**64, "a")]
    ]
    correlations = np.corrcoef(values) - np.eye(len(values))
    assert abs(correlations).max() < 5 / 20_000**0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_types_are_the_rounded_float32_values(dtype):
    initializer = SeededInitializer("he_uniform", 0, "w")
    tensor = initializer((40, 30), dtype=dtype)
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype
    values = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
    precision = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 0.0}[dtype]
    np.testing.assert_allclose(values, initializer.values((40, 30)), rtol=precision, atol=1e-7)


def test_config_round_trip():
    initializer = SeededInitializer("he_normal", np.int64(5), "dense/kernel")
    config = keras.saving.serialize_keras_object(initializer)
    assert config["registered_name"] == "laperm_lib>SeededInitializer"
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(again.values((4, 5)), initializer.values((4, 5)))


def test_invalid_arguments():
    for *arguments, message in [
        ("lecun", 0, "a", "glorot_uniform, he_normal, he_uniform"),
        ("he_uniform", -1, "a", "at least 0"),
        ("he_uniform", 1.0, "a", "at least 0"),
        ("he_uniform", 0, 3, "text"),
    ]:
        with pytest.raises(ValueError, match=message):
            SeededInitializer(*arguments)
    with pytest.raises(ValueError, match="floating-point"):
        SeededInitializer("he_uniform", 0, "a")((2, 2), dtype="int32")
