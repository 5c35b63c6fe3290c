"""The synchronisation as tensor operations equals the one written with NumPy, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from laperm_lib import permutation
from laperm_lib.synchronisation.in_graph import reconnect_all

BACKEND = keras.backend.backend()
AXES = ((-1,), (0,), ())
SHAPES = ((3, 2, 4), (5, 7), (6,))

floats = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-45, -1e-45, 1e-39, 3.4e38, -3.4e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
values = st.tuples(*(hnp.arrays("float32", shape, elements=floats) for shape in SHAPES))


def as_program(function):
    """The function as a compiled program, where that costs a test little."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def reconnect(weights, initial):
    return reconnect_all(AXES, weights, initial)


in_one_program = as_program(reconnect)


def sorted_rows(arrays):
    return [
        permutation.sort_values(permutation.to_matrix(array, axes))
        for axes, array in zip(AXES, arrays, strict=True)
    ]


def with_numpy(weights, initial):
    new = []
    for axes, weight, values in zip(AXES, weights, initial, strict=True):
        matrix = permutation.reconnect(permutation.to_matrix(weight, axes), values)
        new.append(permutation.from_matrix(matrix, weight.shape, axes))
    return new


def tensors(arrays):
    return [ops.convert_to_tensor(array) for array in arrays]


def assert_same_bits(tensors, arrays):
    for tensor, array in zip(tensors, arrays, strict=True):
        new = ops.convert_to_numpy(tensor)
        assert new.dtype == array.dtype
        np.testing.assert_array_equal(
            new.view("uint32"), np.ascontiguousarray(array).view("uint32")
        )


@pytest.mark.parametrize("function", [reconnect, in_one_program], ids=["as is", "compiled"])
@settings(max_examples=50)
@given(weights=values, start=values)
def test_any_floats(function, weights, start):
    initial = sorted_rows(start)
    assert_same_bits(function(tensors(weights), tensors(initial)), with_numpy(weights, initial))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [reconnect, in_one_program], ids=["as is", "compiled"])
def test_one_weight_that_is_not_finite_keeps_all(function, value):
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape).astype("float32") for shape in SHAPES]
    initial = sorted_rows(weights)
    weights = [weight[::-1].copy() for weight in weights]
    weights[1][2, 3] = value
    assert_same_bits(function(tensors(weights), tensors(initial)), weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    generator = np.random.default_rng(0)
    trained, start = generator.normal(size=(2, 30, 3)).astype("float32")
    trained[::4] = 0
    start[::3] *= 0  # zeros of both signs
    weights, initial = (ops.cast(ops.convert_to_tensor(array), dtype) for array in (trained, start))
    rows = [ops.convert_to_numpy(ops.cast(tensor, "float32")).T for tensor in (weights, initial)]
    values = permutation.sort_values(rows[1])
    sorted_initial = ops.cast(ops.convert_to_tensor(values), dtype)
    [new] = reconnect_all([(-1,)], [weights], [sorted_initial])
    assert keras.backend.standardize_dtype(new.dtype) == dtype
    assert_same_bits([ops.cast(new, "float32")], [permutation.reconnect(rows[0], values).T])
