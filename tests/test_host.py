"""NumPy functions and branches inside training steps, on the backend at hand."""

import keras
import numpy as np
import pytest
from keras import ops

from laperm_lib import _backend as backend

BACKEND = keras.backend.backend()


def in_a_step(function):
    """The function as a step of the backend: traced, where the backend traces steps."""
    match BACKEND:
        case "tensorflow":
            import tensorflow as tf

            return tf.function(function)
        case "jax":
            import jax

            return jax.jit(function)
        case _:
            return function


def sum_and_difference(x, y):
    return [x + y, (x - y).astype("int32")]


@pytest.mark.parametrize("place", [lambda function: function, in_a_step], ids=["eager", "step"])
def test_a_numpy_function_is_called(place):
    x, y = np.arange(6, dtype="float32").reshape(2, 3), np.ones((2, 3), "float32")

    def call(x, y):
        return backend.host_callback(sum_and_difference, [x, y], like=[x, ops.cast(y, "int32")])

    results = place(call)(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    for result, expected in zip(results, sum_and_difference(x, y), strict=True):
        assert keras.backend.standardize_dtype(result.dtype) == expected.dtype
        np.testing.assert_array_equal(ops.convert_to_numpy(result), expected)


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX it must not raise")
@pytest.mark.parametrize("place", [lambda function: function, in_a_step], ids=["eager", "step"])
def test_what_the_function_raises_ends_the_step(place):
    def fail(x):
        raise FloatingPointError("a message of ours")

    step = place(lambda x: backend.host_callback(fail, [x], like=[x]))
    with pytest.raises(Exception, match="a message of ours"):
        step(ops.ones((2,)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="needs KERAS_BACKEND=tensorflow")
def test_under_xla_it_is_refused():
    import tensorflow as tf

    def step(x):
        assert backend.is_compiled_by_xla()
        return backend.host_callback(lambda x: [x], [x], like=[x])

    with pytest.raises(ValueError, match="jit_compile=False"):
        tf.function(step, jit_compile=True)(tf.ones(2))
    assert not tf.function(lambda: tf.constant(backend.is_compiled_by_xla()))()
    inner = tf.function(lambda: tf.constant(backend.is_compiled_by_xla()))
    assert tf.function(lambda: inner(), jit_compile=True)()  # traced inside


@pytest.mark.parametrize("condition", [True, False])
def test_one_of_two_ways_is_taken(condition):
    one, other = (keras.Variable(value, trainable=False) for value in (1.0, 2.0))
    backend.cond(
        ops.convert_to_tensor(condition),
        lambda: one.assign(one + other),
        lambda: other.assign(10 * one),
        assigned=[one, other],
    )
    assert (float(one), float(other)) == ((3, 2) if condition else (1, 10))
