"""The compiled synchronisation equals the one written with NumPy, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laperm_lib import LaPerm, permutation
from laperm_lib import _numba as compiling
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.synchronisation import compiled
from laperm_lib.synchronisation import step as sync

values = st.one_of(
    st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-45, -1e-45, 3.4e38, -3.4e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1, 1, width=32),
)


def assert_equal_to_numpy(weights, initial):
    sorted_initial = permutation.sort_values(np.ascontiguousarray(initial.T))
    expected = permutation.reconnect(np.ascontiguousarray(weights.T), sorted_initial).T
    (new,) = compiled.reconnect_columns([weights], [sorted_initial])
    np.testing.assert_array_equal(new.view("uint32"), np.ascontiguousarray(expected).view("uint32"))


def by_numpy(weights, sorted_initial):
    return [
        permutation.reconnect(np.ascontiguousarray(matrix.T), values).T
        for matrix, values in zip(weights, sorted_initial, strict=True)
    ]


@given(st.data())
def test_any_floats(data):
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 40)))
    arrays = hnp.arrays("float32", shape, elements=values)
    assert_equal_to_numpy(data.draw(arrays), data.draw(arrays))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's threads")
@pytest.mark.parametrize("synchronise", [compiled.reconnect_columns, by_numpy])
def test_the_smallest_numbers_are_not_zero_in_tensorflows_threads(synchronise):
    """There, comparisons take subnormal numbers for zero."""
    import tensorflow as tf

    compiling.threads.cache_clear()  # threads are as those that begin them
    tiny = np.array([[3e-45], [-1.0], [0.0], [-0.0], [1e-45], [-1e-45]], "float32")
    initial = permutation.sort_values(np.array([[1e-45, -0.0, 0.0, 3e-45, -1e-45, 7.0]], "float32"))
    flushed = []

    def on_host(weights, values):
        flushed.append(bool(weights[4, 0] == 0))
        return synchronise([weights], [values])[0]

    new = tf.function(lambda *arrays: tf.numpy_function(on_host, arrays, tf.float32))(tiny, initial)
    compiling.threads.cache_clear()
    assert flushed == [True]
    expected = permutation.reconnect_reference(tiny[:, 0], initial[0])
    np.testing.assert_array_equal(new.numpy()[:, 0].view("uint32"), expected.view("uint32"))


RNG = np.random.default_rng(0)
SHAPE = (3000, 21)  # not a multiple of the columns that are fetched together
NORMAL = RNG.normal(size=SHAPE).astype("float32")


@pytest.mark.parametrize(
    "weights",
    [
        NORMAL,
        RNG.uniform(-1, 1, SHAPE),
        np.where(RNG.random(SHAPE) < 0.9, 0, NORMAL),  # sparse
        np.where(RNG.random(SHAPE) < 0.9, RNG.normal(0, 1e-6, SHAPE), NORMAL),  # sparse, trained
        np.where(np.arange(SHAPE[0])[:, None] == 7, 1e30, NORMAL),  # an outlier
        NORMAL * 10.0 ** RNG.integers(-30, 30, SHAPE),
        NORMAL * 1e-35,  # a spread whose inverse overflows
        np.sign(NORMAL) * 3e38,  # a spread that overflows itself
        RNG.integers(-3, 4, SHAPE),  # ties
        np.zeros(SHAPE),
        np.where(RNG.random(SHAPE) < 0.5, 0.0, -0.0),
        np.arange(SHAPE[0])[:, None] * np.ones(SHAPE),
    ],
)
@pytest.mark.parametrize("initial", [NORMAL, np.where(NORMAL > 0, NORMAL, NORMAL * 0)])
def test_distributions_of_weights(weights, initial):
    assert_equal_to_numpy(weights.astype("float32"), initial)


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 600)), max_size=12))
def test_shares_hold_every_column_once(shapes):
    found = [piece for share in compiled._shares(tuple(shapes)) for piece in share]
    columns = [(kernel, j) for kernel, first, last in found for j in range(first, last)]
    assert columns == [(k, j) for k, (_, neurons) in enumerate(shapes) for j in range(neurons)]


def test_shares_are_of_about_equal_size():
    shapes = ((27, 64), (576, 64), (16384, 256), (256, 256), (256, 10))
    sizes = [
        sum((last - first) * shapes[kernel][0] for kernel, first, last in share)
        for share in compiled._shares(shapes)
    ]
    largest_tile = compiled._TILE * max(length for length, _ in shapes)
    wanted = max(compiled._LEAST_SHARE, sum(sizes) // (compiled._SHARES_PER_CORE * compiling.CORES))
    assert sum(sizes) == sum(length * neurons for length, neurons in shapes)
    assert max(sizes) < max(1.5 * wanted, largest_tile + wanted)


def test_large_networks_are_cut_into_larger_shares():
    def shares(neurons):
        return len(compiled._shares(((5000, neurons),)))

    few, many = shares(1000), shares(100_000)
    assert few <= many <= 1.2 * compiled._SHARES_PER_CORE * compiling.CORES


def test_several_kernels_at_once():
    generator = np.random.default_rng(1)
    shapes = [(9, 32), (800, 33), (0, 3), (1, 1), (5000, 30), (40_000, 17)]
    weights = [generator.normal(size=shape).astype("float32") for shape in shapes]
    initial = [permutation.sort_values(generator.random(s[::-1], "float32")) for s in shapes]
    for before, values, new in zip(
        weights, initial, compiled.reconnect_columns(weights, initial), strict=True
    ):
        np.testing.assert_array_equal(new, permutation.reconnect(before.T, values).T)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (17, 20), (2999, 5)])
def test_what_has_no_order_is_an_error(bad, place):
    weights = NORMAL.copy()
    weights[place] = bad
    with pytest.raises(NonFiniteWeightError, match="NaN or an infinity"):
        compiled.reconnect_columns([weights], [permutation.sort_values(NORMAL.T.copy())])


def test_large_networks_are_trained_with_it(monkeypatch):
    """A network of over 100,000 weights takes this path and trains as on the NumPy path."""
    calls = []
    original = compiled.reconnect_columns

    def recorded(*arguments):
        calls.extend(matrix.shape for matrix in arguments[0])
        return original(*arguments)

    monkeypatch.setattr(compiled, "reconnect_columns", recorded)
    results = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(sync, "_WORTH_COMPILING", threshold)
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3), keras.layers.Flatten()]
        )
        model.compile(LaPerm(keras.optimizers.Adam(0.01), 2), loss="mse", run_eagerly=True)
        x, y = NORMAL[:480, :16].reshape(40, 8, 8, 3), np.zeros((40, 288))
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
        results.append(model.get_weights()[0])
    np.testing.assert_array_equal(*results)
    assert (27, 8) in calls
