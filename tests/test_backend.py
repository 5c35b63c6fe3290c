"""Each way to synchronise inside a training step gives what NumPy gives, where it is meant to."""

import sys
from contextlib import suppress

import keras
import numpy as np
import pytest
from keras import ops

from laperm_lib import permutation
from laperm_lib.synchronisation import step as sync

BACKEND = keras.backend.backend()
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="needs KERAS_BACKEND=jax")
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="needs KERAS_BACKEND=tensorflow"
)
SHAPE, AXES = (3, 3, 2, 5), (-1,)


@pytest.fixture(params=[False, True], ids=["few weights", "many weights"])
def kernel(request, monkeypatch):
    """A permuted kernel that has been trained, and what it is once synchronised.

    Many weights are synchronised by compiled code, where Numba is installed.
    """
    if request.param:
        monkeypatch.setattr(sync, "_WORTH_COMPILING", 1)
    generator = np.random.default_rng(0)
    trained, start = generator.normal(size=(2, *SHAPE)).astype("float32")
    start[0, 0] = [[0.0], [-0.0]]
    values = permutation.sort_values(permutation.to_matrix(start, AXES))
    expected = permutation.reconnect(permutation.to_matrix(trained, AXES), values)
    variable = keras.Variable(trained, name="kernel")
    initial = keras.Variable(values, trainable=False)
    return (
        sync.PermutedVariable(variable, initial, AXES),
        permutation.from_matrix(expected, SHAPE, AXES),
    )


def assert_same_bits(tensor, array):
    new = np.ascontiguousarray(ops.convert_to_numpy(tensor))
    np.testing.assert_array_equal(new.view("uint32"), np.ascontiguousarray(array).view("uint32"))


def test_outside_of_a_program(kernel):
    entry, expected = kernel
    trained = ops.convert_to_numpy(entry.variable).copy()
    sync.synchronise_when(ops.convert_to_tensor(False), [entry])
    assert_same_bits(entry.variable, trained)
    sync.synchronise_when(ops.convert_to_tensor(True), [entry])
    assert_same_bits(entry.variable, expected)


@needs_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_tensorflow_sorts_in_the_graph_under_xla_alone(kernel, jit_compile):
    import tensorflow as tf

    entry, expected = kernel

    @tf.function(jit_compile=jit_compile)
    def step(due):
        sync.synchronise_when(due, [entry])

    graph = step.get_concrete_function(tf.constant(True)).graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert ("PyFunc" in operations) != jit_compile
    trained = ops.convert_to_numpy(entry.variable).copy()
    step(tf.constant(False))
    assert_same_bits(entry.variable, trained)
    step(tf.constant(True))
    assert_same_bits(entry.variable, expected)


def jax_step(entry):
    """The synchronisation of one kernel as a pure function."""

    def step(due, weights, initial):
        mapping = [(entry.variable, weights), (entry.sorted_initial, initial)]
        with keras.StatelessScope(mapping) as scope:
            sync.synchronise_when(due, [entry])
        return scope.get_current_value(entry.variable)

    return step


@pytest.mark.parametrize("group", [1, 100, 10**6], ids="groups of {} weights".format)
@pytest.mark.parametrize("finite", [True, False])
def test_groups_are_synchronised_all_or_none(group, finite, monkeypatch):
    monkeypatch.setattr(sync, "_GROUP", group)
    generator = np.random.default_rng(1)
    trained = generator.normal(size=(3, 40, 2)).astype("float32")
    values = np.sort(generator.normal(size=(3, 2, 40)).astype("float32"))
    if not finite:
        trained[2, 5, 1] = np.inf
    entries = [
        sync.PermutedVariable(
            keras.Variable(array, name=f"kernel{number}"),
            keras.Variable(values[number], trainable=False),
            (-1,),
        )
        for number, array in enumerate(trained)
    ]
    assert [g.stop - g.start for g in sync._groups(entries)] == {1: [1, 1, 1], 100: [2, 1]}.get(
        group, [3]
    )

    def step(due):
        sync.synchronise_when(due, entries)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(step)
    if finite:
        step(ops.convert_to_tensor(True))
        expected = [permutation.reconnect(*pair).T for pair in zip(trained.mT, values, strict=True)]
    else:
        with pytest.raises(Exception, match="'kernel2' holds a NaN or an infinity"):
            sync.synchronise(entries)
        with suppress(Exception):  # TensorFlow's own, none on JAX
            step(ops.convert_to_tensor(True))
        expected = trained
    for entry, array in zip(entries, expected, strict=True):
        assert_same_bits(entry.variable, array)


@needs_jax
@pytest.mark.parametrize("callbacks", [True, False], ids=["jax", "jax without buffer_callback"])
def test_jax_hands_the_weights_to_the_host_on_a_cpu(kernel, callbacks, monkeypatch):
    import jax

    if not callbacks:
        monkeypatch.setitem(sys.modules, "jax.experimental.buffer_callback", None)
    entry, expected = kernel
    trained, initial = entry.variable.value, entry.sorted_initial.value
    program = jax.jit(jax_step(entry)).lower(True, trained, initial).compile()
    assert (" sort(" in program.as_text()) != callbacks
    assert_same_bits(program(False, trained, initial), trained)
    assert_same_bits(program(True, trained, initial), expected)


@needs_jax
def test_jax_keeps_weights_that_are_not_finite(kernel):
    import jax

    entry, _ = kernel
    trained = np.array(entry.variable.value)
    trained[0, 0, 0, 0] = np.nan
    assert_same_bits(jax.jit(jax_step(entry))(True, trained, entry.sorted_initial.value), trained)


@needs_jax
def test_jax_can_vectorise_a_step_over_runs(kernel):
    import jax

    entry, expected = kernel
    trained, initial = entry.variable.value, entry.sorted_initial.value
    steps = jax.jit(jax.vmap(jax_step(entry), in_axes=(0, None, None)))
    first, second = steps(np.array([True, False]), trained, initial)
    assert_same_bits(first, expected)
    assert_same_bits(second, trained)
