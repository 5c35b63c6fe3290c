"""The sets that weights are projected onto, and the optimizers that train in them."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from small_network import LOSS, X, Y, build_model, matrices, train
from test_laperm import EXECUTIONS

from laperm_lib import LaPerm, SignedLaPerm, SignFlip, Switch, weight_vectors
from laperm_lib.errors import NonFiniteWeightError, WeightFileError
from laperm_lib.synchronisation.projections import SETS, Permutations, SignedPermutations, Signs

PROJECTIONS = list(SETS.values())
RNG = np.random.default_rng(0)
numbers = st.integers(-8, 8).map(lambda n: n / 4)
floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def whole_set(projection, initial):
    """Every vector that may become of a short one."""
    if isinstance(projection, Permutations):
        return np.array(list(itertools.permutations(initial)))
    if isinstance(projection, SignedPermutations):
        both = [whole_set(Signs(), order) for order in itertools.permutations(initial)]
        return np.concatenate(both)
    both = [(w, -w) if isinstance(projection, Signs) else (w, 0) for w in initial]
    return np.array(list(itertools.product(*both)))


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: type(each).__name__)
@given(data=st.data(), size=st.integers(1, 5))
def test_no_element_of_the_set_is_nearer(projection, data, size):
    initial, weights = (data.draw(hnp.arrays("float64", size, elements=numbers)) for _ in range(2))
    kept = projection.keep(initial[None])
    [new] = projection.nearest(weights[None], kept)
    everything = whole_set(projection, initial)
    assert (everything == new).all(axis=1).any()
    squares = ((everything - weights) ** 2).sum(axis=1)  # exact: all are multiples of 1/16
    assert ((new - weights) ** 2).sum() == squares.min()
    assert projection.contains(new[None], kept)
    np.testing.assert_array_equal(projection.nearest(new[None], kept)[0], new)
    assert projection.contains(weights[None], kept) == (everything == weights).all(axis=1).any()
    assert projection.are_stuck(initial[None])[0] == (everything == everything[0]).all()


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: type(each).__name__)
@given(data=st.data())
def test_tensors_are_projected_as_arrays_are(projection, data):
    initial, weights = (data.draw(hnp.arrays("float32", (3, 5), elements=floats)) for _ in range(2))
    kept = projection.keep(initial)
    in_graph = ops.convert_to_numpy(projection.keep_in_graph(ops.convert_to_tensor(initial)))
    np.testing.assert_array_equal(in_graph, kept)
    new = projection.nearest_in_graph(*map(ops.convert_to_tensor, (weights, kept)))
    expected = projection.nearest(weights, kept)
    np.testing.assert_array_equal(ops.convert_to_numpy(new), expected)
    assert new.dtype == ops.convert_to_tensor(weights).dtype


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: each.name)
@given(data=st.data(), sizes=st.lists(st.integers(1, 4), max_size=2))
def test_codes_hold_elements_in_the_bits_of_their_number(projection, data, sizes):
    draw = [data.draw(hnp.arrays("float32", (2, d), elements=numbers)) for d in sizes + sizes]
    initial, weights = draw[: len(sizes)], draw[len(sizes) :]
    initial = [first + 0 for first in initial]  # no -0
    kept = map(projection.keep, initial)
    elements = list(map(projection.nearest, weights, kept))
    code = projection.encode(elements, initial)
    for decoded, element in zip(projection.decode(code, initial), elements, strict=True):
        assert decoded.dtype == element.dtype
        assert decoded.shape == element.shape
        np.testing.assert_array_equal(decoded.view("int32"), element.view("int32"))
    rows = [row for first in initial for row in first]
    bits = sum(np.log2(len(np.unique(whole_set(projection, row), axis=0))) for row in rows)
    np.testing.assert_allclose(projection.bound_bits(initial), bits, atol=1e-9)
    assert 8 * len(code) <= bits + 16  # part of a byte for the signs, and of one for the order
    with pytest.raises(WeightFileError, match="The code is damaged"):
        projection.decode(code + b"\0", initial)  # other bytes may be another arrangement's
    if initial:
        with pytest.raises(ValueError, match=f"not a {projection.name}"):
            projection.encode([element + 9 for element in elements], initial)


# -- the optimizers ------------------------------------------------------------------------------

both = pytest.mark.parametrize("kind", [SignFlip, Switch, SignedLaPerm])


def may_become(kind, start, end):
    if kind is SignFlip:
        return (np.abs(start) == np.abs(end)).all()
    if kind is SignedLaPerm:
        return (np.sort(np.abs(start)) == np.sort(np.abs(end))).all()
    return ((end == start) | (end == 0)).all()


@both
@pytest.mark.parametrize("latent", [False, True])
def test_the_weights_are_those_of_the_inner_optimizer_projected(kind, latent):
    model, free = build_model(), build_model()
    inner = keras.optimizers.SGD(0.5)
    optimizer = kind(keras.optimizers.SGD(0.5), 3, latent_weights=latent)
    start = [v.matrix() for v in weight_vectors.of(model)]
    for step in range(1, 7):
        gradients = [
            ops.convert_to_tensor(RNG.normal(size=v.shape).astype("float32"))
            for v in model.trainable_variables
        ]
        optimizer.apply(gradients, model.trainable_variables)
        inner.apply(gradients, free.trainable_variables)
        pairs = list(zip(weight_vectors.of(model), weight_vectors.of(free), start, strict=True))
        if step % 3 == 0:
            for trained, alone, initial in pairs:
                kept = optimizer.projection.keep(initial)
                expected = optimizer.projection.nearest(alone.matrix(), kept)
                np.testing.assert_array_equal(trained.matrix(), expected)
                if not latent:
                    alone.variable.assign(trained.variable)
            assert optimizer.is_projected()
        assert optimizer.is_projected() == (latent or step % 3 == 0)


@both
@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_a_fit_changes_weights_within_the_set_and_loads_as_it_was_saved(kind, execution, tmp_path):
    model = build_model()
    start = matrices(model)
    train(model, kind(keras.optimizers.SGD(0.5), 4), **execution)
    end = matrices(model)
    for path, initial in start.items():
        assert may_become(kind, initial, end[path])
        assert not np.array_equal(initial, end[path])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, kind)
    assert loaded.optimizer.is_projected()
    for each in (model, loaded):
        each.fit(X, Y, batch_size=10, shuffle=False, verbose=0)
    for path, weights in matrices(model).items():
        np.testing.assert_array_equal(matrices(loaded)[path], weights)
        assert may_become(kind, start[path], weights)


@both
def test_a_weight_that_is_not_finite_is_named(kind):
    model = build_model()
    model.compile(kind(keras.optimizers.SGD(float("inf")), 1), loss=LOSS)
    with pytest.raises(Exception, match="holds a NaN or an infinity; no weight was synchronised"):
        model.fit(X, Y, verbose=0)
    model.layers[0].kernel.assign(model.layers[0].kernel * np.nan)
    with pytest.raises(NonFiniteWeightError):
        kind("adam", 1).capture(model)


@both
def test_what_cannot_change_and_what_cannot_be_wrapped_is_said(kind, caplog):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(3)])
    model.layers[0].kernel.assign(np.zeros((4, 2)))
    model.layers[1].kernel.assign(np.ones((2, 3)))  # one value is no hindrance here
    optimizer = kind("adam", 5)
    optimizer.capture(model)
    [message] = [r.getMessage() for r in caplog.records]
    assert message.startswith(f"{kind.__name__} cannot change {model.layers[0].kernel.path}: all")
    lines = optimizer.summary().splitlines()
    assert optimizer.projection.in_words in lines[1]
    for wrapper, inner in ((kind, LaPerm("adam", 2)), (LaPerm, kind("adam", 2))):
        with pytest.raises(ValueError, match=f"{wrapper.__name__} cannot wrap"):
            wrapper(inner, 3)
