"""What depends on the backend, on the one at hand."""

import keras
import numpy as np
import pytest
from keras import ops

from laperm_lib import _backend as backend

BACKEND = keras.backend.backend()


def in_a_step(function):
    """The function as a step of the backend: traced, where the backend traces steps."""
    if BACKEND == "tensorflow":
        return backend.tensorflow().function(function)
    return backend.jax().jit(function) if BACKEND == "jax" else function


def sum_and_difference(x, y):
    return [x + y, (x - y).astype("int32")]


anywhere = pytest.mark.parametrize("place", [lambda f: f, in_a_step], ids=["eager", "step"])


@anywhere
def test_a_numpy_function_is_called(place):
    x, y = np.arange(6, dtype="float32").reshape(2, 3), np.ones((2, 3), "float32")

    def call(x, y):
        return backend.host_callback(sum_and_difference, [x, y], like=[x, ops.cast(y, "int32")])

    results = place(call)(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    for result, expected in zip(results, sum_and_difference(x, y), strict=True):
        assert keras.backend.standardize_dtype(result.dtype) == expected.dtype
        np.testing.assert_array_equal(ops.convert_to_numpy(result), expected)


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX it must not raise")
@anywhere
def test_what_the_function_raises_ends_the_step(place):
    def fail(x):
        raise FloatingPointError("a message of ours")

    step = place(lambda x: backend.host_callback(fail, [x], like=[x]))
    with pytest.raises(Exception, match="a message of ours"):
        step(ops.ones((2,)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="needs KERAS_BACKEND=tensorflow")
def test_under_xla_a_host_callback_is_refused():
    import tensorflow as tf

    def step(x):
        assert backend.is_compiled_by_xla()
        return backend.host_callback(lambda x: [x], [x], like=[x])

    with pytest.raises(ValueError, match="jit_compile=False"):
        tf.function(step, jit_compile=True)(tf.ones(2))
    assert not tf.function(lambda: tf.constant(backend.is_compiled_by_xla()))()
    inner = tf.function(lambda: tf.constant(backend.is_compiled_by_xla()))
    assert tf.function(lambda: inner(), jit_compile=True)()  # traced inside


def test_only_the_backend_at_hand_is_imported():
    for name in ("tensorflow", "jax", "torch"):
        assert (getattr(backend, name)() is not None) == (name == BACKEND)
