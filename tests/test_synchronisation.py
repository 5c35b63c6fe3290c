"""Each way to synchronise gives what `permutation.reconnect` gives, bit for bit."""

import functools
import sys
from contextlib import nullcontext, suppress
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from small_network import float64

from laperm_lib import NonFiniteWeightError, _numba, permutation
from laperm_lib.synchronisation import compiled, sorting, step
from laperm_lib.synchronisation.projections import Permutations

BACKEND = keras.backend.backend()
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="needs KERAS_BACKEND=jax")
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="needs KERAS_BACKEND=tensorflow"
)
RNG = np.random.default_rng(0)
FLOATS = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-45, -1e-45, 1e-39, 3.4e38, -3.4e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
)


def assert_same_bits(tensor, array):
    new, array = (np.ascontiguousarray(a) for a in (ops.convert_to_numpy(tensor), array))
    np.testing.assert_array_equal(new.view("uint32"), array.view("uint32"))


def sorted_rows(array, axes):
    return permutation.sort_values(permutation.to_matrix(array, axes))


def permuted(trained, values, axes=(-1,), **how):
    """A variable that has been trained, with its sorted initial values."""
    variable = keras.Variable(trained, dtype=str(trained.dtype), **how)
    initial = keras.Variable(values, trainable=False, dtype=str(values.dtype))
    return step.ProjectedVariable(variable, initial, axes, Permutations())


def reconnected(weights, sorted_initial, axes=(-1,)):
    """What the synchronisation must give, by NumPy."""
    rows = permutation.reconnect(permutation.to_matrix(weights, axes), sorted_initial)
    return permutation.from_matrix(rows, weights.shape, axes)


# -- in a training step --------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["few weights", "many weights"])
def kernel(request, monkeypatch):
    """A permuted kernel that has been trained, and what it is once synchronised.

    Many weights are synchronised by compiled code.
    """
    if request.param:
        monkeypatch.setattr(step, "_WORTH_COMPILING", 1)
    trained, start = np.random.default_rng(0).normal(size=(2, 3, 3, 2, 5)).astype("float32")
    start[0, 0] = [[0.0], [-0.0]]
    values = sorted_rows(start, (-1,))
    return permuted(trained, values, name="kernel"), reconnected(trained, values)


def test_outside_of_a_program(kernel):
    entry, expected = kernel
    trained = ops.convert_to_numpy(entry.variable).copy()
    step.synchronise_when(ops.convert_to_tensor(False), [entry])
    assert_same_bits(entry.variable, trained)
    step.synchronise_when(ops.convert_to_tensor(True), [entry])
    assert_same_bits(entry.variable, expected)


@needs_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_tensorflow_sorts_in_the_graph_under_xla_alone(kernel, jit_compile):
    import tensorflow as tf

    entry, expected = kernel
    program = tf.function(lambda due: step.synchronise_when(due, [entry]), jit_compile=jit_compile)
    graph = program.get_concrete_function(tf.constant(True)).graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert ("PyFunc" in operations) != jit_compile
    trained = ops.convert_to_numpy(entry.variable).copy()
    program(tf.constant(False))
    assert_same_bits(entry.variable, trained)
    program(tf.constant(True))
    assert_same_bits(entry.variable, expected)


def as_function(entry):
    """The synchronisation of one kernel as a pure function, for JAX."""

    def function(due, weights, initial):
        mapping = [(entry.variable, weights), (entry.kept, initial)]
        with keras.StatelessScope(mapping) as scope:
            step.synchronise_when(due, [entry])
        return scope.get_current_value(entry.variable)

    return function


@needs_jax
@pytest.mark.parametrize("callbacks", [True, False], ids=["jax", "jax without buffer_callback"])
def test_jax_hands_the_weights_to_the_host_on_a_cpu(kernel, callbacks, monkeypatch):
    import jax

    if not callbacks:
        monkeypatch.setitem(sys.modules, "jax.experimental.buffer_callback", None)
    entry, expected = kernel
    trained, initial = entry.variable.value, entry.kept.value
    program = jax.jit(as_function(entry)).lower(True, trained, initial).compile()
    assert (" sort(" in program.as_text()) != callbacks
    assert_same_bits(program(False, trained, initial), trained)
    assert_same_bits(program(True, trained, initial), expected)
    nan = np.array(trained)
    nan[0, 0, 0, 0] = np.nan
    assert_same_bits(program(True, nan, initial), nan)


@needs_jax
def test_jax_can_vectorise_a_step_over_runs(kernel):
    import jax

    entry, expected = kernel
    trained, initial = entry.variable.value, entry.kept.value
    steps = jax.jit(jax.vmap(as_function(entry), in_axes=(0, None, None)))
    first, second = steps(np.array([True, False]), trained, initial)
    assert_same_bits(first, expected)
    assert_same_bits(second, trained)


@pytest.mark.parametrize("group", [1, 100, 10**6], ids="groups of {} weights".format)
@pytest.mark.parametrize("finite", [True, False])
def test_groups_are_synchronised_all_or_none(group, finite, monkeypatch):
    monkeypatch.setattr(step, "_GROUP", group)
    trained = RNG.normal(size=(3, 40, 2)).astype("float32")
    values = np.sort(RNG.normal(size=(3, 2, 40)).astype("float32"))
    if not finite:
        trained[2, 5, 1] = np.inf
    entries = [permuted(trained[n], values[n], name=f"kernel{n}") for n in range(3)]
    sizes = [part.stop - part.start for part in step._groups(entries)]
    assert sizes == {1: [1, 1, 1], 100: [2, 1]}.get(group, [3])

    def program(due):
        step.synchronise_when(due, entries)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        program = tf.function(program)
    if not finite:
        with pytest.raises(Exception, match="'kernel2' holds a NaN or an infinity"):
            step.synchronise(entries)
    # The error is TensorFlow's own; on JAX there is none.
    with nullcontext() if finite else suppress(Exception):
        program(ops.convert_to_tensor(True))
    expected = map(reconnected, trained, values) if finite else trained
    for entry, array in zip(entries, expected, strict=True):
        assert_same_bits(entry.variable, array)


@pytest.mark.parametrize("worth", [1, 10**9], ids=["compiled", "by NumPy"])
@pytest.mark.parametrize("group", [1, 50, 10**6], ids="groups of {} weights".format)
def test_variables_of_any_layout_are_synchronised_together(worth, group, monkeypatch):
    by_columns = Mock(side_effect=compiled.reconnect_columns)
    monkeypatch.setattr(compiled, "reconnect_columns", by_columns)
    monkeypatch.setattr(step, "_WORTH_COMPILING", worth)
    monkeypatch.setattr(step, "_GROUP", group)
    with float64():
        entries, expected = [], []
        for shape, axes, dtype in [
            ((3, 3, 2, 5), (-1,), "float32"),
            ((6, 6), (1,), "float32"),
            ((6, 6), (0,), "float32"),
            ((3, 3, 4, 2), (2, 3), "float32"),
            ((7,), (), "float32"),
            ((6, 6), (-1,), "float16"),
            ((6, 6), (-1,), "float64"),
        ]:
            trained, start = RNG.normal(size=(2, *shape)).astype(dtype)
            values = sorted_rows(start, axes)
            entries.append(permuted(trained, values, axes))
            expected.append(reconnected(trained, values, axes))
        step.synchronise(entries)
        for entry, array in zip(entries, expected, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(entry.variable), array)
    shapes = [matrix.shape for call in by_columns.call_args_list for matrix in call.args[0]]
    assert shapes == ([(18, 5), (6, 6)] if worth == 1 else [])


# -- in the graph --------------------------------------------------------------------------------

AXES = ((-1,), (0,), ())
SHAPES = ((3, 2, 4), (5, 7), (6,))
several = st.tuples(*(hnp.arrays("float32", shape, elements=FLOATS) for shape in SHAPES))


def in_graph(weights, initial):
    entries = [step.ProjectedVariable(None, None, axes, Permutations()) for axes in AXES]
    return step._in_graph(entries, weights, initial)


@functools.cache  # compiled once for all examples
def in_one_program():
    if BACKEND == "jax":
        import jax

        return jax.jit(in_graph)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(in_graph, jit_compile=True)
    return in_graph


programs = pytest.mark.parametrize("program", [lambda: in_graph, in_one_program])


def tensors(arrays):
    return [ops.convert_to_tensor(array) for array in arrays]


@programs
@settings(max_examples=50)
@given(weights=several, start=several)
def test_any_floats_in_the_graph(program, weights, start):
    initial = list(map(sorted_rows, start, AXES))
    expected = map(reconnected, weights, initial, AXES)
    for new, array in zip(program()(tensors(weights), tensors(initial)), expected, strict=True):
        assert_same_bits(new, array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@programs
def test_one_weight_that_is_not_finite_keeps_all(program, value):
    weights = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
    initial = list(map(sorted_rows, weights, AXES))
    weights = [weight[::-1].copy() for weight in weights]
    weights[1][2, 3] = value
    for new, array in zip(program()(tensors(weights), tensors(initial)), weights, strict=True):
        assert_same_bits(new, array)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    trained, start = RNG.normal(size=(2, 30, 3)).astype("float32")
    trained[::4] = 0
    start[::3] *= 0  # zeros of both signs
    weights, initial = (ops.cast(ops.convert_to_tensor(array), dtype) for array in (trained, start))
    rows = [ops.convert_to_numpy(ops.cast(tensor, "float32")).T for tensor in (weights, initial)]
    values = permutation.sort_values(rows[1])
    sorted_initial = ops.cast(ops.convert_to_tensor(values), dtype)
    entry = step.ProjectedVariable(None, None, (-1,), Permutations())
    [new] = step._in_graph([entry], [weights], [sorted_initial])
    assert keras.backend.standardize_dtype(new.dtype) == dtype
    assert_same_bits(ops.cast(new, "float32"), permutation.reconnect(rows[0], values).T)


# -- compiled ------------------------------------------------------------------------------------


def assert_compiled_is_right(weights, initial):
    values = sorted_rows(initial, (-1,))
    (new,) = compiled.reconnect_columns([weights], [values])
    assert_same_bits(new, reconnected(weights, values))


@given(st.data(), st.tuples(st.integers(1, 60), st.integers(1, 40)))
def test_any_floats_compiled(data, shape):
    arrays = hnp.arrays("float32", shape, elements=FLOATS)
    assert_compiled_is_right(data.draw(arrays), data.draw(arrays))


SHAPE = (3000, 21)  # not a multiple of the columns that are fetched together
NORMAL = RNG.normal(size=SHAPE).astype("float32")
DISTRIBUTIONS = [
    NORMAL,
    RNG.uniform(-1, 1, SHAPE),
    np.where(RNG.random(SHAPE) < 0.9, 0, NORMAL),  # sparse
    np.where(RNG.random(SHAPE) < 0.9, RNG.normal(0, 1e-6, SHAPE), NORMAL),  # sparse, trained
    np.where(np.arange(SHAPE[0])[:, None] == 7, 1e30, NORMAL),  # an outlier
    NORMAL * 10.0 ** RNG.integers(-30, 30, SHAPE),
    NORMAL * 1e-35,  # a range whose inverse overflows
    np.sign(NORMAL) * 3e38,  # a range that overflows itself
    np.where(RNG.random(SHAPE) < 0.5, 0, NORMAL**5),  # as gradients are
    RNG.integers(-3, 4, SHAPE),  # ties
    np.zeros(SHAPE),
    np.where(RNG.random(SHAPE) < 0.5, 0.0, -0.0),
    np.where(RNG.random(SHAPE) < 0.5, 0, 1.0),
    np.arange(SHAPE[0])[:, None] * np.ones(SHAPE),
]


@pytest.mark.parametrize("weights", DISTRIBUTIONS)
@pytest.mark.parametrize("initial", [NORMAL, np.where(NORMAL > 0, NORMAL, NORMAL * 0)])
def test_distributions_of_weights(weights, initial):
    assert_compiled_is_right(weights.astype("float32"), initial)


def by_numpy(weights, sorted_initial):
    return list(map(reconnected, weights, sorted_initial))


@needs_tensorflow
@pytest.mark.parametrize("synchronise", [compiled.reconnect_columns, by_numpy])
def test_the_smallest_numbers_are_not_zero_in_tensorflows_threads(synchronise):
    """There, comparisons take subnormal numbers for zero."""
    import tensorflow as tf

    _numba.threads.cache_clear()  # threads are as those that begin them
    tiny = np.array([[3e-45], [-1.0], [0.0], [-0.0], [1e-45], [-1e-45]], "float32")
    initial = permutation.sort_values(np.array([[1e-45, -0.0, 0.0, 3e-45, -1e-45, 7.0]], "float32"))
    flushed = []

    def on_host(weights, values):
        flushed.append(bool(weights[4, 0] == 0))
        return synchronise([weights], [values])[0]

    new = tf.function(lambda *arrays: tf.numpy_function(on_host, arrays, tf.float32))(tiny, initial)
    _numba.threads.cache_clear()
    assert flushed == [True]
    assert_same_bits(new[:, 0], permutation.reconnect_reference(tiny[:, 0], initial[0]))


def test_several_kernels_at_once():
    shapes = [(9, 32), (800, 33), (0, 3), (1, 1), (5000, 30), (40_000, 17)]
    weights = [RNG.normal(size=shape).astype("float32") for shape in shapes]
    initial = [permutation.sort_values(RNG.random(s[::-1], "float32")) for s in shapes]
    after = compiled.reconnect_columns(weights, initial)
    for before, values, new in zip(weights, initial, after, strict=True):
        np.testing.assert_array_equal(new, permutation.reconnect(before.T, values).T)


# -- sorting -------------------------------------------------------------------------------------


def by_size(matrix):
    return permutation.sort_order(-np.abs(matrix))


both = pytest.mark.parametrize(
    ("sort", "reference"),
    [(sorting.sort_order, permutation.sort_order), (sorting.order_of_size, by_size)],
    ids=["by value", "by size"],
)
matrices = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40).flatmap(
    lambda shape: hnp.arrays("float32", shape, elements=FLOATS)
)


@both
@given(matrix=matrices)
def test_the_order_of_any_floats(sort, reference, matrix):
    order = sort(matrix)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, reference(matrix))


LENGTHS = [0, 1, 2, 32_767, 32_768, 70_000]  # buckets of 16 bits and of more


@both
@pytest.mark.parametrize(
    "matrix", [*DISTRIBUTIONS, NORMAL[::3], *(RNG.normal(size=(d, 2)) for d in LENGTHS)]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_order_of_distributions_of_weights(sort, reference, matrix, dtype):
    with np.errstate(over="ignore"):
        rows = matrix.T[:5].astype(dtype)  # not contiguous
        rows = np.clip(rows, np.finfo(dtype).min, np.finfo(dtype).max)
    np.testing.assert_array_equal(sort(rows), reference(rows))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (17, 20), (2999, 5)])
def test_what_has_no_order_is_an_error(bad, place):
    weights = NORMAL.copy()
    weights[place] = bad
    with pytest.raises(NonFiniteWeightError, match="NaN or an infinity"):
        compiled.reconnect_columns([weights], [sorted_rows(NORMAL, (-1,))])
    for sort in (sorting.sort_order, sorting.order_of_size):
        with pytest.raises(NonFiniteWeightError, match="NaN or an infinity"):
            sort(weights)


def test_gradients_are_sorted_in_linear_time(monkeypatch):
    """Sizes over twenty orders of magnitude, half of them zero, are not left to NumPy."""
    sizes = 10 ** RNG.uniform(-20, 0, SHAPE)
    gradients = (np.sign(NORMAL) * sizes * (RNG.random(SHAPE) < 0.5)).astype("float32").T
    expected = by_size(gradients)
    monkeypatch.delattr(permutation, "sort_order")
    np.testing.assert_array_equal(sorting.order_of_size(gradients), expected)
    with pytest.raises(AttributeError):
        sorting.sort_order(gradients)
