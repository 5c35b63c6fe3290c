import hashlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laperm_lib.paper import networks as models
from laperm_lib.sparsity import LayerSparsity, SparsityReport, agnosticize, random_prune


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def network():
    """A convolution, a normalisation and two dense layers, all named automatically."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(40, 3, bias_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(30, bias_initializer="ones"),
            keras.layers.Dense(20, use_bias=False),
        ]
    )


def kernels(model):
    return [numpy(v) for v in model.trainable_variables if v.name == "kernel"]


def bits(model):
    return [numpy(v).tobytes() for v in model.weights]


@settings(max_examples=10)
@given(st.floats(0, 1), st.integers(0, 2**40))
def test_pruning_keeps_some_weights_and_zeroes_the_others(fraction, seed):
    model = models.build("f2", seed=0)
    before = kernels(model)
    report = random_prune(model, fraction, seed=seed)
    for old, new, layer in zip(before, kernels(model), report.layers, strict=True):
        assert ((new == old) | (new == 0)).all()
        assert not np.signbit(new[new == 0]).any()  # +0.0 only
        assert np.count_nonzero(new) == layer.kept  # no initial value is zero
        assert layer.total == new.size
    expected = [max(1 - fraction, 0.8), 1 - fraction, 1 - fraction]
    for keep, layer in zip(expected, report.layers, strict=True):
        tolerance = 5 * (keep * (1 - keep) / layer.total) ** 0.5 + 5 / layer.total
        assert abs(layer.kept / layer.total - keep) <= tolerance


def test_vectors_are_not_pruned():
    model = network()
    before = {v.path: numpy(v) for v in model.weights}
    report = random_prune(model, 1.0, seed=0, first_layer_keep=0.0)
    assert report.fraction_pruned == 1
    for variable in model.weights:
        if variable.name == "kernel":
            assert not numpy(variable).any()
        else:
            np.testing.assert_array_equal(numpy(variable), before[variable.path])


def test_nothing_is_pruned_at_zero():
    model = models.build("f2", seed=0)
    before = bits(model)
    assert random_prune(model, 0, seed=0).fraction_pruned == 0
    assert bits(model) == before


def test_masks_depend_on_the_seed_and_not_on_names():
    keras.utils.set_random_seed(0)  # of so many values drawn anew each time, one may be zero
    models_pruned = [network() for _ in range(2)]  # Keras gives them different layer names
    for model in models_pruned:
        random_prune(model, 0.5, seed=7)
    first, second = ([k != 0 for k in kernels(model)] for model in models_pruned)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    random_prune(other := network(), 0.5, seed=8)
    assert not np.array_equal(kernels(other)[1] != 0, first[1])


def test_masks_are_the_guaranteed_ones():
    model = models.build("f1", seed=0)
    agnosticize(model, 0.08, 4 / 7, seed=0)
    digest = hashlib.sha256(np.packbits(kernels(model)[0] != 0).tobytes()).hexdigest()
    assert digest.startswith("fe48e862d5335ed6bd09af944b8fa4ff")


def test_masks_do_not_depend_on_the_values():
    model = models.build("f2", seed=0)
    before = kernels(model)
    random_prune(model, 0.5, seed=0, first_layer_keep=0.5)  # the seed of the values, too
    for old, new in zip(before, kernels(model), strict=True):
        correlation = np.corrcoef(old.ravel(), (new != 0).ravel())[0, 1]
        assert abs(correlation) < 5 / old.size**0.5


def test_agnosticize_gives_one_value_and_zeros():
    model = models.build("f2", seed=0)
    report = agnosticize(model, -0.03, (1 / 15, 1 / 7, 1 / 3), seed=0)
    keeps = (1 / 15, 1 / 7, 1 / 3)
    for kernel, layer, keep in zip(kernels(model), report.layers, keeps, strict=True):
        assert set(np.unique(kernel).tolist()) == {float(np.float32(-0.03)), 0.0}
        assert not np.signbit(kernel[kernel == 0]).any()
        assert np.count_nonzero(kernel) == layer.kept
        assert layer.kept / layer.total == pytest.approx(keep, abs=0.06)
    assert report.fraction_pruned == 1 - report.kept / report.total


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 2**40))
def test_with_a_constant_fan_in_all_neurons_of_a_layer_have_equally_many_connections(keep, seed):
    model = network()
    agnosticize(model, 0.5, keep, seed=seed, constant_fan_in=True)
    for kernel in kernels(model):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        assert set((matrix != 0).sum(axis=0)) == {round(keep * len(matrix))}


def test_a_constant_fan_in_takes_places_at_random():
    places = np.zeros((784, 10))
    for seed in range(200):
        model = models.build("f1", seed=0)
        agnosticize(model, 1.0, 0.25, seed=seed, constant_fan_in=True)
        places += kernels(model)[0]
    # Binomial with 200 trials: 50 ± 6.1 for each of the 7,840 places.
    assert 50 - 6 * 6.1 < places.min() < places.max() < 50 + 6 * 6.1
    assert places.std() == pytest.approx((200 * 0.25 * 0.75) ** 0.5, rel=0.05)


def test_a_constant_fan_in_keeps_the_smallest_random_words():
    """Where the mask of the same seed without it keeps as many, they are the same places."""
    constant, independent = models.build("f2", seed=0), models.build("f2", seed=0)
    keep = (1 / 15, 1 / 7, 1 / 3)
    agnosticize(constant, 1.0, keep, seed=3, constant_fan_in=True)
    agnosticize(independent, 1.0, keep, seed=3)
    for ours, theirs in zip(kernels(constant), kernels(independent), strict=True):
        fewer = np.minimum(ours.sum(axis=0), theirs.sum(axis=0))
        np.testing.assert_array_equal((ours * theirs).sum(axis=0), fewer)


def test_agnosticize_leaves_vectors_alone():
    model = network()
    before = {v.path: numpy(v) for v in model.weights if v.name != "kernel"}
    agnosticize(model, 0.5, np.array([1.0, 0.5, 0.0]), seed=0)
    first, _, last = kernels(model)
    assert (first == 0.5).all()
    assert not last.any()
    for variable in model.weights:
        if variable.name != "kernel":
            np.testing.assert_array_equal(numpy(variable), before[variable.path])


def test_half_precision_models():
    dense = keras.layers.Dense(50, kernel_initializer="ones", dtype="bfloat16")
    dense.build((None, 40))
    report = random_prune(dense, 0.5, seed=0, first_layer_keep=0)
    assert keras.backend.standardize_dtype(dense.kernel.dtype) == "bfloat16"
    kernel = numpy(keras.ops.cast(dense.kernel, "float32"))
    assert np.count_nonzero(kernel) == report.kept


def test_report():
    report = SparsityReport((LayerSparsity("a/kernel", 10, 4), LayerSparsity("b/kernel", 30, 30)))
    assert [layer.fraction_pruned for layer in report.layers] == [0.6, 0.0]
    assert (report.total, report.kept, report.fraction_pruned) == (40, 34, 1 - 34 / 40)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (random_prune, {"fraction": -0.1}, "from 0 to 1"),
        (random_prune, {"fraction": 1.1}, "from 0 to 1"),
        (random_prune, {"fraction": float("nan")}, "from 0 to 1"),
        (random_prune, {"fraction": "half"}, "from 0 to 1"),
        (random_prune, {"fraction": 0.5, "first_layer_keep": 2}, "first_layer_keep"),
        (random_prune, {"fraction": 0.5, "seed": -1}, "seed"),
        (agnosticize, {"value": 0.1, "keep": 1.5}, "from 0 to 1"),
        (agnosticize, {"value": 0.1, "keep": [0.5, 0.5]}, "2 probabilities for 3 kernels"),
        (agnosticize, {"value": 0.1, "keep": [0.5, 0.5, float("nan")]}, "from 0 to 1"),
        (agnosticize, {"value": float("nan"), "keep": 0.5}, "finite"),
        (agnosticize, {"value": float("inf"), "keep": 0.5}, "finite"),
        (agnosticize, {"value": 1e39, "keep": 0.5}, "finite"),
        (agnosticize, {"value": 0.1, "keep": 0.5, "seed": 0.5}, "seed"),
    ],
)
def test_invalid_arguments_change_nothing(function, arguments, message):
    model = models.build("f2", seed=0)
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        function(model, **{"seed": 0} | arguments)
    assert bits(model) == before


def test_models_without_kernels():
    with pytest.raises(ValueError, match="not built"):
        random_prune(keras.Sequential([keras.layers.Dense(3)]), 0.5, seed=0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="no kernel"):
        random_prune(model, 0.5, seed=0)
