"""Sorting in linear time gives what NumPy's sorts give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laperm_lib import NonFiniteWeightError, permutation
from laperm_lib.synchronisation import sorting as compiled_sorting

RNG = np.random.default_rng(0)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)
FLOATS = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-45, -1e-45, 3.4e38, -3.4e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
)


def by_size(matrix):
    return permutation.sort_order(-np.abs(matrix))


both = pytest.mark.parametrize(
    ("sort", "reference"),
    [
        (compiled_sorting.sort_order, permutation.sort_order),
        (compiled_sorting.order_of_size, by_size),
    ],
    ids=["by value", "by size"],
)


@both
@given(matrix=hnp.arrays("float32", SHAPES, elements=FLOATS))
def test_the_order_of_any_floats(sort, reference, matrix):
    order = sort(matrix)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, reference(matrix))


NORMAL = RNG.normal(size=(5, 3000))


@both
@pytest.mark.parametrize(
    "matrix",
    [
        NORMAL,
        NORMAL[:, ::3],  # not contiguous
        np.where(np.arange(3000) == 7, 1e30, NORMAL),  # an outlier
        np.where(RNG.random(NORMAL.shape) < 0.9, 0, NORMAL),  # sparse
        np.where(RNG.random(NORMAL.shape) < 0.5, 0, NORMAL**5),  # as gradients are
        NORMAL * 10.0 ** RNG.integers(-30, 30, NORMAL.shape),
        RNG.integers(-3, 4, NORMAL.shape),  # ties
        np.where(RNG.random(NORMAL.shape) < 0.5, 0, 1.0),
        np.zeros(NORMAL.shape),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_order_of_distributions_of_weights(sort, reference, matrix, dtype):
    with np.errstate(over="ignore"):
        matrix = np.clip(matrix.astype(dtype), np.finfo(dtype).min, np.finfo(dtype).max)
    np.testing.assert_array_equal(sort(matrix), reference(matrix))


@both
@pytest.mark.parametrize("d", [0, 1, 2, 32_767, 32_768, 70_000])  # buckets of 16 bits and of more
def test_the_order_of_short_and_long_vectors(sort, reference, d):
    matrix = RNG.normal(size=(2, d)).astype("float32")
    np.testing.assert_array_equal(sort(matrix), reference(matrix))


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_order_is_an_error(sort, reference, bad):
    matrix = NORMAL.astype("float32")
    matrix[3, 1234] = bad
    with pytest.raises(NonFiniteWeightError, match="NaN or an infinity"):
        sort(matrix)


def test_gradients_are_sorted_in_linear_time(monkeypatch):
    """Sizes over twenty orders of magnitude, half of them zero, are not left to NumPy."""
    sizes = 10 ** RNG.uniform(-20, 0, NORMAL.shape)
    gradients = (np.sign(NORMAL) * sizes * (RNG.random(NORMAL.shape) < 0.5)).astype("float32")
    expected = by_size(gradients)
    monkeypatch.delattr(permutation, "sort_order")
    np.testing.assert_array_equal(compiled_sorting.order_of_size(gradients), expected)
    with pytest.raises(AttributeError):
        compiled_sorting.sort_order(gradients)
