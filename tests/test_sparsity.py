"""Sparse starts: masks, one shared value, and zeros that stay under other optimizers."""

import hashlib
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from small_network import X, Y, train

from laperm_lib.errors import UnknownLayerError
from laperm_lib.gradient_flow import gradients
from laperm_lib.sparsity import agnosticize, keep_zeros, random_prune

KEEPS = (1 / 15, 1 / 7, 1 / 3)


def network(l2=0.0):
    """A convolution, a normalisation and two dense layers, all named automatically."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(40, 3, activation="relu", bias_initializer="ones"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(30, kernel_regularizer=keras.regularizers.L2(l2)),
            layers.Dense(3, use_bias=False),
        ]
    )


def one_dense():
    """The kernel of F1: 784 by 10."""
    return keras.Sequential([keras.Input((784,)), layers.Dense(10, use_bias=False)])


def numpy(variable):
    return ops.convert_to_numpy(variable)


def kernels(model):
    return [numpy(v) for v in model.trainable_variables if v.name == "kernel"]


def vectors(model):
    return [numpy(v) for v in model.weights if v.name != "kernel"]


def bits(model):
    return [numpy(v).tobytes() for v in model.weights]


def share_of_zeros(some):
    return sum((kernel == 0).sum() for kernel in some) / sum(kernel.size for kernel in some)


@settings(max_examples=10)
@given(st.floats(0, 1), st.integers(0, 2**40))
def test_pruning_keeps_some_weights_and_zeroes_the_others(fraction, seed):
    model = network()
    before, others = kernels(model), vectors(model)
    report = random_prune(model, fraction, seed=seed)
    for old, new, layer in zip(before, kernels(model), report.layers, strict=True):
        assert ((new == old) | (new == 0)).all()
        assert not np.signbit(new[new == 0]).any()  # +0.0 only
        assert np.count_nonzero(new) == layer.kept  # no initial value is zero
        assert layer.total == new.size
        assert layer.fraction_pruned == pytest.approx((new == 0).mean())
    expected = [max(1 - fraction, 0.8), 1 - fraction, 1 - fraction]
    for keep, layer in zip(expected, report.layers, strict=True):
        tolerance = 5 * (keep * (1 - keep) / layer.total) ** 0.5 + 5 / layer.total
        assert abs(layer.kept / layer.total - keep) <= tolerance
    for old, new in zip(others, vectors(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_all_and_nothing():
    model = network()
    before = bits(model)
    assert random_prune(model, 0, seed=0).fraction_pruned == 0
    assert bits(model) == before
    assert random_prune(model, 1.0, seed=0, first_layer_keep=0.0).fraction_pruned == 1
    assert not any(kernel.any() for kernel in kernels(model))


def test_masks_depend_on_the_seed_and_not_on_names_or_values():
    first, again, other = (network() for _ in range(3))  # Keras gives them different layer names
    values = kernels(first)
    for model, seed in [(first, 7), (again, 7), (other, 8)]:
        random_prune(model, 0.5, seed=seed, first_layer_keep=0.5)
    for value, one, same, more in zip(values, *map(kernels, (first, again, other)), strict=True):
        np.testing.assert_array_equal(one != 0, same != 0)
        assert not np.array_equal(one != 0, more != 0)
        assert abs(np.corrcoef(value.ravel(), (one != 0).ravel())[0, 1]) < 5 / value.size**0.5


def test_masks_are_the_guaranteed_ones():
    model = one_dense()
    agnosticize(model, 0.08, 4 / 7, seed=0)
    digest = hashlib.sha256(np.packbits(kernels(model)[0] != 0).tobytes()).hexdigest()
    assert digest.startswith("fe48e862d5335ed6bd09af944b8fa4ff")


def test_agnosticize_gives_one_value_and_zeros():
    model = network()
    before = vectors(model)
    report = agnosticize(model, -0.03, KEEPS, seed=0)
    for kernel, layer, keep in zip(kernels(model), report.layers, KEEPS, strict=True):
        assert set(np.unique(kernel).tolist()) == {float(np.float32(-0.03)), 0.0}
        assert not np.signbit(kernel[kernel == 0]).any()
        assert np.count_nonzero(kernel) == layer.kept
        assert layer.kept / layer.total == pytest.approx(keep, abs=0.06)
    for old, new in zip(before, vectors(model), strict=True):
        np.testing.assert_array_equal(old, new)
    agnosticize(model, 0.5, np.array([1.0, 0.5, 0.0]), seed=0)
    first, _, last = kernels(model)
    assert (first == 0.5).all()
    assert not last.any()


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 2**40))
def test_with_a_constant_fan_in_all_neurons_of_a_layer_have_equally_many_connections(keep, seed):
    model = network()
    agnosticize(model, 0.5, keep, seed=seed, constant_fan_in=True)
    for kernel in kernels(model):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        assert set((matrix != 0).sum(axis=0)) == {round(keep * len(matrix))}


def test_a_constant_fan_in_keeps_the_smallest_random_words():
    """Where the mask of the same seed without it keeps as many, they are the same places."""
    constant, independent = network(), network()
    agnosticize(constant, 1.0, KEEPS, seed=3, constant_fan_in=True)
    agnosticize(independent, 1.0, KEEPS, seed=3)
    for ours, theirs in zip(kernels(constant), kernels(independent), strict=True):
        axes = tuple(range(ours.ndim - 1))
        fewer = np.minimum(ours.sum(axis=axes), theirs.sum(axis=axes))
        np.testing.assert_array_equal((ours * theirs).sum(axis=axes), fewer)


def test_half_precision_models():
    dense = layers.Dense(50, kernel_initializer="ones", dtype="bfloat16")
    dense.build((None, 40))
    report = random_prune(dense, 0.5, seed=0, first_layer_keep=0)
    assert keras.backend.standardize_dtype(dense.kernel.dtype) == "bfloat16"
    assert np.count_nonzero(numpy(ops.cast(dense.kernel, "float32"))) == report.kept


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (random_prune, {"fraction": -0.1}, "fraction is a number at least 0 and at most 1"),
        (random_prune, {"fraction": float("nan")}, "fraction"),
        (random_prune, {"fraction": 0.5, "first_layer_keep": 2}, "first_layer_keep"),
        (random_prune, {"fraction": 0.5, "seed": -1}, "seed"),
        (agnosticize, {"value": 0.1, "keep": 1.5}, "keep is a number"),
        (agnosticize, {"value": 0.1, "keep": [0.5, 0.5]}, "2 probabilities for 3 kernels"),
        (agnosticize, {"value": 0.1, "keep": [0.5, 0.5, float("nan")]}, "keep"),
        (agnosticize, {"value": float("nan"), "keep": 0.5}, "finite"),
        (agnosticize, {"value": 1e39, "keep": 0.5}, "finite"),
        (agnosticize, {"value": 0.1, "keep": 0.5, "seed": 0.5}, "seed"),
        (agnosticize, {"value": 0.1, "keep": 0.5, "constant_fan_in": "no"}, "True or False"),
    ],
)
def test_invalid_arguments_change_nothing(function, arguments, message):
    model = network()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        function(model, **{"seed": 0} | arguments)
    assert bits(model) == before


class Scale(keras.Layer):
    """One of a user's own that the library does not know."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, inputs):
        return inputs * self.factor


def test_unknown_layers_and_what_is_excluded_are_left_alone():
    alone, with_others = network(), network()
    others = keras.Sequential([*with_others.layers[:-1], Scale(), with_others.layers[-1]])
    others.build((None, 6, 6, 2))
    assert len(random_prune(alone, 0.5, seed=3).layers) == 3
    first = kernels(others)[0]
    pattern = rf"^{others.layers[0].path}/"
    report = random_prune(others, 0.5, seed=3, exclude=pattern)
    assert len(report.layers) == 2
    assert keep_zeros(others, exclude=[pattern]) == pytest.approx(report.fraction_pruned)
    assert others.layers[0].kernel.constraint is others.layers[4].factor.constraint is None
    np.testing.assert_array_equal(kernels(others)[0], first)
    for one, other in zip(kernels(alone)[1:], kernels(others)[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(agnosticize(others, 0.1, [0.5, 0.5], seed=0, exclude=pattern).layers) == 2
    with pytest.raises(UnknownLayerError, match="register"):
        random_prune(keras.Sequential([keras.Input((3,)), Scale()]), 0.5, seed=0)


@pytest.mark.parametrize(  # what kinds of kernels there are: plain, depthwise, separable, scales
    ("name", "side"), [("MobileNetV2", 32), ("Xception", 71), ("ConvNeXtTiny", 32)]
)
def test_families_of_keras_applications(name, side):
    family = getattr(keras.applications, name)
    model = family(weights=None, input_shape=(side, side, 3), include_top=False)
    report = random_prune(model, 0.5, seed=0)
    assert keep_zeros(model) == pytest.approx(report.fraction_pruned, abs=1e-3)
    # Not one kernel is missed: matrices, and the depthwise, in an order of their own.
    matrices = sum(math.prod(v.shape) for v in model.trainable_variables if len(v.shape) > 1)
    assert report.total == matrices


@pytest.mark.parametrize("use", [lambda model: random_prune(model, 0.5, seed=0), keep_zeros])
def test_models_without_kernels(use):
    with pytest.raises(ValueError, match="not built"):
        use(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="no kernel"):
        use(keras.Sequential([keras.Input((3,)), layers.BatchNormalization()]))


# -- zeros that are kept ---------------------------------------------------------------------------


def pruned(l2=0.0):
    model = network(l2)
    random_prune(model, 0.6, seed=0, first_layer_keep=0)
    return model


@pytest.mark.parametrize(
    ("optimizer", "how"), [("adam", {}), ("rmsprop", {"run_eagerly": True}), ("momentum", {})]
)
def test_pruned_weights_stay_zero_and_the_others_learn(optimizer, how):
    model = pruned(l2=1e-2)
    start = kernels(model)
    assert keep_zeros(model) == pytest.approx(share_of_zeros(start))
    if optimizer == "momentum":
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    train(model, optimizer, epochs=2, **how)
    for before, after in zip(start, kernels(model), strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
        assert not np.signbit(after[before == 0]).any()
        assert (before != after).sum() > 0.9 * (before != 0).sum()


def test_the_others_move_as_by_masked_gradients():
    """Against descent written out: w <- w - rate * (gradient * mask)."""
    model, reference = pruned(), pruned()
    keep_zeros(model)
    variables = reference.trainable_variables
    masks = [numpy(v) != 0 if v.name == "kernel" else np.ones(v.shape) for v in variables]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for first in range(0, 40, 10):
        x, y = X[first:][:10], Y[first:][:10]
        found = gradients(reference, x, y, loss)
        for variable, gradient, mask in zip(variables, found, masks, strict=True):
            variable.assign_sub(0.01 * gradient * mask)
        train(model, keras.optimizers.SGD(0.01), x=x, y=y)
    for one, other in zip(model.trainable_variables, variables, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-4, atol=1e-6)


def test_other_constraints_are_applied_first_and_the_latest_zeros_count():
    model = pruned()
    kernel = model.layers[-1].kernel
    kernel.constraint = keras.constraints.MaxNorm(0.1, axis=0)
    few = keep_zeros(model)
    random_prune(model, 0.5, seed=1, first_layer_keep=0)
    more = keep_zeros(model)
    assert more > few + 0.1
    train(model, "adam")
    assert share_of_zeros(kernels(model)) == pytest.approx(more)
    assert np.linalg.norm(numpy(kernel), axis=0).max() < 0.1 + 1e-5


def zeros_of(model):
    return [kernel == 0 for kernel in kernels(model)]


def assert_same_zeros(model, expected):
    for found, wanted in zip(zeros_of(model), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=str)
def test_it_acts_on_steps_that_keras_has_compiled(how):
    """Train, prune, fine-tune, and again with more zeros; also in a model around the pruned one."""
    inner = network()
    model = keras.Sequential([keras.Input((6, 6, 2)), inner, layers.Activation("linear")])
    train(model, "adam", **how)
    for seed in (0, 1):
        random_prune(inner, 0.4, seed=seed, first_layer_keep=0)
        keep_zeros(inner)
        expected = zeros_of(model)
        train(model, None)
        assert_same_zeros(model, expected)
        model.train_on_batch(X[:10], Y[:10])
        assert_same_zeros(model, expected)


def test_it_acts_in_the_middle_of_a_training():
    class PruneEachEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            random_prune(self.model, 0.3, seed=epoch, first_layer_keep=0)
            self.share = keep_zeros(self.model)

    model, prune = network(), PruneEachEpoch()
    train(model, "adam", epochs=3, callbacks=[prune])
    assert share_of_zeros(kernels(model)) == pytest.approx(prune.share) == pytest.approx(0.66, 0.1)
    expected = zeros_of(model)
    train(model, None)
    assert_same_zeros(model, expected)


def averaging(kind):
    if kind == "loss scaling":
        inner = keras.optimizers.Adam(use_ema=True, ema_momentum=0.9)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8)
    if kind == "several":
        dense = keras.optimizers.SGD(0.01, use_ema=True)
        default = keras.optimizers.Adam(use_ema=True)
        return keras.optimizers.MultiOptimizer(lambda v: dense if "dense" in v.path else default)
    return keras.optimizers.AdamW(use_ema=True, ema_overwrite_frequency=kind)


@pytest.mark.parametrize(
    ("kind", "swaps"), [(None, True), (4, False), ("loss scaling", True), ("several", False)]
)
def test_averages_of_the_optimizer_keep_the_zeros(kind, swaps):
    """Also those that hold what was there before pruning; a validation may swap them in."""
    model, shares = network(), []
    look = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: shares.append(share_of_zeros(kernels(model)))
    )
    callbacks = [look] if not swaps else [keras.callbacks.SwapEMAWeights(), look]
    train(model, averaging(kind))
    # Keras on JAX cannot `fit` again with the averages that the first `fit` put in.
    model.set_weights([np.array(value) for value in model.get_weights()])
    random_prune(model, 0.5, seed=0, first_layer_keep=0)
    expected = zeros_of(model)
    keep_zeros(model)
    train(model, None)  # the optimizer at hand
    assert_same_zeros(model, expected)
    model.set_weights([np.array(value) for value in model.get_weights()])
    model.fit(X, Y, 30, epochs=2, verbose=0, validation_data=(X, Y), callbacks=callbacks)
    assert_same_zeros(model, expected)
    assert shares == [pytest.approx(share_of_zeros(kernels(model)))] * 2
