"""The laws of ranks and reconnection, and the fast sort against the one written for reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laperm_lib import permutation
from laperm_lib.errors import NonFiniteWeightError

# Few distinct values, so that ties and zeros of both signs are common, among all the others.
values = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-45, -1e-45, 3.4e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def pairs(draw, dtype="float32"):
    """Two matrices of one shape, or vectors, or stacks: weights and initial values."""
    before = draw(st.sampled_from([(), (1,), (4,), (2, 3)]))
    shape = (*before, draw(st.integers(1, 12)))
    arrays = hnp.arrays(dtype, shape, elements=values)
    return draw(arrays), draw(arrays)


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@given(pairs())
def test_reconnect_equals_the_reference_bit_for_bit(pair):
    weights, initial = pair
    fast = permutation.reconnect(weights, permutation.sort_values(initial))
    rows = [array.reshape(-1, array.shape[-1]) for array in pair]
    naive = [permutation.reconnect_reference(w, i) for w, i in zip(*rows, strict=True)]
    np.testing.assert_array_equal(bits(fast), bits(np.reshape(naive, weights.shape)))


@given(pairs(), st.booleans())
def test_the_laws_of_reconnection(pair, transposed):
    weights, initial = (matrix.T if transposed else matrix for matrix in pair)
    sorted_initial = permutation.sort_values(initial)
    assert sorted_initial.flags.c_contiguous
    new = permutation.reconnect(weights, sorted_initial)
    # Every value is kept, zeros of both signs too; their order is that of the weights.
    assert permutation.is_permutation(initial, new)
    order = np.argsort(weights, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(new, order, axis=-1)) >= 0).all()
    # Reconnecting twice changes no bit, nor does reconnecting untrained weights, but that -0 and +0
    # may change places: they have one rank.
    np.testing.assert_array_equal(bits(permutation.reconnect(new, sorted_initial)), bits(new))
    np.testing.assert_array_equal(permutation.reconnect(initial, sorted_initial), initial)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(data=st.data())
def test_sort_order_is_the_stable_argsort(dtype, data):
    width = 16 if dtype == "float16" else 32
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    shape = hnp.array_shapes(min_dims=1, max_dims=3, max_side=12)
    elements = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), floats)
    matrix = data.draw(hnp.arrays(dtype, shape, elements=elements))
    expected = np.argsort(matrix, axis=-1, kind="stable")
    np.testing.assert_array_equal(permutation.sort_order(matrix), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_weights_have_an_order_where_they_are_equal_to_zero(dtype):
    """TensorFlow's threads flush subnormal numbers to 0; integers are not touched."""
    tf = pytest.importorskip("tensorflow")
    weights = np.array([[3, 1, 2, -1]], dtype) * np.finfo(dtype).smallest_subnormal
    inside = tf.numpy_function(permutation.sort_order, [weights], tf.int64)
    assert inside.numpy().tolist() == permutation.sort_order(weights).tolist() == [[3, 1, 2, 0]]


def test_what_has_no_order_and_what_does_not_fit_are_errors():
    for bad in (np.nan, np.inf, -np.inf):
        weights = np.array([[1.0, bad]], "float32")
        with pytest.raises(NonFiniteWeightError, match="NaN or an infinity"):
            permutation.reconnect(weights, np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(1, 3\)"):
        permutation.reconnect(np.zeros((1, 2)), np.zeros((1, 3)))


@given(shape=hnp.array_shapes(min_dims=1, max_dims=5, max_side=4), data=st.data())
def test_matrices_go_back_to_arrays(shape, data):
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True)))
    array = np.arange(np.prod(shape)).reshape(shape)
    matrix = permutation.to_matrix(array, axes)
    assert matrix.shape == permutation.matrix_shape(shape, axes)
    assert len(matrix) == np.prod([shape[axis] for axis in axes])
    np.testing.assert_array_equal(permutation.from_matrix(matrix, shape, axes), array)
    from_the_end = tuple(axis - len(shape) for axis in axes)
    np.testing.assert_array_equal(permutation.to_matrix(array, from_the_end), matrix)


def test_a_filter_is_read_in_c_order():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    matrix = permutation.to_matrix(kernel, (-1,))
    np.testing.assert_array_equal(matrix[3], kernel[..., 3].ravel())


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((2, 3), (2,)), ((2, 3), (-3,)), ((2, 3), (0, -2)), ((2, 0), (0,)), ((), (0,))],
)
def test_axes_that_do_not_fit(shape, axes):
    with pytest.raises(ValueError, match=r"axis|axes|holds no weights"):
        permutation.to_matrix(np.zeros(shape), axes)


def test_is_permutation_looks_at_bits_rows_shapes_and_dtypes():
    assert not permutation.is_permutation(np.array([0.0]), np.array([-0.0]))
    assert not permutation.is_permutation(np.array([[1.0], [2.0]]), np.array([[2.0], [1.0]]))
    for more in (np.zeros(3), np.zeros((2, 1)), np.zeros((1, 2))):
        assert not permutation.is_permutation(np.zeros(2), more)
        assert not permutation.is_permutation(more, np.zeros(2))
    for one, other in [("float32", "float64"), ("float32", "int32")]:
        assert not permutation.is_permutation(np.zeros(2, one), np.zeros(2, other))
        assert not permutation.is_permutation(np.zeros(2, other), np.zeros(2, one))
    assert permutation.is_permutation(np.array([[1.0, np.nan]]), np.array([[np.nan, 1.0]]))


def test_are_permutations_wants_a_partner_for_each_and_at_least_one():
    a, b, other = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([1.0, 1.0])
    assert permutation.are_permutations([a, b], [b, a])
    for pair in ([], []), ([a], [b, a]), ([a, b], [b]), ([a, b], [b, other]):
        assert not permutation.are_permutations(*pair)
