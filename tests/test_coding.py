"""Codes of arrangements: decoded bit for bit, as short as the bound, and the same bytes as those of
a coder written for reading."""

import math

import numpy as np
import pytest
import readable_range_coder as readable
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib import coding
from laperm_lib.errors import WeightFileError

RNG = np.random.default_rng(0)

# Few values, so that many are equal; zeros of both signs; NaNs with different bits.
POOLS = {
    "float32": np.array(
        [*np.linspace(-1, 1, 9), -0.0, 0.0, 1e-45, np.inf, np.nan, -np.nan], "float32"
    ),
    "float64": np.array([0.1, 0.2, -0.0, 0.0, 5e-324, 1e300, -np.nan], "float64"),
}


@st.composite
def networks(draw):
    """Matrices of initial values, and the same arranged otherwise."""
    initial, trained = [], []
    for _ in range(draw(st.integers(0, 4))):
        pool = POOLS[draw(st.sampled_from(list(POOLS)))]
        shape = (draw(st.integers(1, 4)), draw(st.integers(1, 40)))
        generator = np.random.default_rng(draw(st.integers(0, 2**32)))
        if draw(st.booleans()):
            values = np.arange(math.prod(shape)).reshape(shape).astype(pool.dtype)
        else:
            values = generator.choice(pool[: draw(st.integers(1, len(pool)))], shape)
        initial.append(generator.permuted(values, axis=1))
        trained.append(generator.permuted(values, axis=1))
    return trained, initial


def bits(matrix):
    return matrix.view(f"u{matrix.dtype.itemsize}")


def assert_same_bits(first, second):
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(bits(ours), bits(theirs))


def kinds_of(matrices, initial):
    return [coding._kinds(0, *pair) for pair in zip(matrices, initial, strict=True)]


def sorted_kinds(initial):
    return [np.sort(kinds, axis=-1) for kinds in kinds_of(initial, initial)]


def assert_coded_as_by_the_readable_coder(trained, initial):
    """Whose code this is, and that both decode it; the code."""
    code = coding.encode(trained, initial)
    kinds = kinds_of(trained, initial)
    assert readable.encode(kinds) == code
    assert_same_bits(readable.decode(code, sorted_kinds(initial)), kinds)
    assert_same_bits(coding.decode(code, initial), trained)
    return code


@given(networks())
def test_what_is_encoded_is_decoded_and_within_a_byte_of_the_bound(network):
    trained, initial = network
    code = assert_coded_as_by_the_readable_coder(trained, initial)
    assert 8 * len(code) <= coding.bound_bits(initial) + 8.001
    with pytest.raises(WeightFileError, match="damaged"):
        coding.decode(code + b"\0", initial)


@given(networks(), st.binary(max_size=40), st.integers(-1, 40))
def test_any_bytes_are_the_code_of_one_arrangement_or_of_none(network, code, cut):
    trained, initial = network
    code = code if cut < 0 else coding.encode(trained, initial)[:cut]
    try:
        decoded = coding.decode(code, initial)
    except WeightFileError:
        with pytest.raises(WeightFileError):
            readable.decode(code, sorted_kinds(initial))
    else:
        assert assert_coded_as_by_the_readable_coder(decoded, initial) == code


@pytest.mark.parametrize("counts", [[1] * 20, [3, 5, 1], [7], [300, 484], [2] * 500])
def test_the_bound_is_the_logarithm_of_a_multinomial(counts):
    row = np.repeat(np.arange(len(counts), dtype="float32"), counts)
    number = math.factorial(len(row)) // math.prod(map(math.factorial, counts))
    expected = 2 * math.log2(number)
    assert coding.bound_bits([np.stack([row, row[::-1]])]) == pytest.approx(expected, rel=1e-12)


def test_long_vectors_of_all_sorts():
    """Long enough that sums leave their 64 bits and are carried."""
    initial = [
        RNG.normal(size=(3, 3000)).astype("float32"),
        np.where(RNG.random((10, 784)) < 0.6, np.float32(0.08), np.float32(0)),
        np.where(RNG.random((2, 900)) < 0.3, RNG.normal(size=(2, 900)), 0.0),
        np.ones((5, 100), "float32"),
        RNG.normal(size=(1, 32)).astype("float32"),
    ]
    trained = [RNG.permuted(matrix, axis=1) for matrix in initial]
    code = assert_coded_as_by_the_readable_coder(trained, initial)
    assert abs(8 * len(code) - coding.bound_bits(initial)) <= 8.001


def test_the_first_and_the_last_arrangement():
    """Where the interval is at an end of what 64 bits hold."""
    start = np.arange(2000, dtype="float32")[None]
    assert assert_coded_as_by_the_readable_coder([start], [start]) == b""
    code = assert_coded_as_by_the_readable_coder([start[:, ::-1]], [start])
    assert code.startswith(b"\xff" * 6)


def test_codes_stay_the_same_bytes():
    """Networks are kept as codes, so these may never change."""
    start = np.arange(30, dtype="float32")[None]
    first = coding.encode([start[:, np.arange(30) * 7 % 30]], [start])
    ones = (np.arange(64) % 3 == 0).astype("float64")[None]
    second = coding.encode([ones], [np.sort(ones)])
    assert (first.hex(), second.hex()) == ("01e62471108ae6f9c069bcc70dd3", "c5fc6471e31e2c16")


def test_what_is_equal_costs_nothing():
    equal = np.full((100, 100), 0.5, "float32")
    for matrices in ([equal], []):
        assert assert_coded_as_by_the_readable_coder(matrices, matrices) == b""
        assert coding.bound_bits(matrices) == 0


ROW = np.array([[1.0, 2.0, 3.0]], "float32")


def test_what_cannot_be_coded():
    for trained, initial, why in [
        ([ROW], [ROW + 1], "Matrix 0 is not a permutation"),
        ([ROW, np.array([[0.0]])], [ROW, np.array([[-0.0]])], "Matrix 1 is not a permutation"),
        ([ROW], [ROW.astype("float64")], "float64"),
        ([ROW], [ROW[:, :2]], r"\(1, 2\)"),
        ([ROW], [], "1 matrices"),
        ([ROW[0]], [ROW[0]], r"\(3,\)"),
        ([ROW[:, :0]], [ROW[:, :0]], r"\(1, 0\)"),
        ([ROW.astype("complex128")], [ROW.astype("complex128")], "complex128"),
    ]:
        with pytest.raises(ValueError, match=why):
            coding.encode(trained, initial)
    long = np.broadcast_to(np.float32(0), (1, 2**31))
    with pytest.raises(ValueError, match="2147483648"):
        coding.bound_bits([long])
