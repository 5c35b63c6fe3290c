"""Sparse starts: masks, one shared value, and zeros that stay under other optimizers."""

import hashlib
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from small_network import LOSS, X, Y, train

from laperm_lib._random import raw_bits
from laperm_lib.errors import UnknownLayerError
from laperm_lib.gradient_flow import gradients
from laperm_lib.sparsity import agnosticize, keep_zeros, random_prune


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


def random_masks(some, keeps, seed, constant_fan_in=False):
    """By 64 random bits a weight: those below `keep`, or the smallest of each weight vector."""
    for number, (kernel, keep) in enumerate(zip(some, keeps, strict=True)):
        words = raw_bits(seed, f"mask {number}").random_raw(kernel.size).reshape(kernel.shape)
        if constant_fan_in:
            columns = words.reshape(-1, words.shape[-1])
            ranks = columns.argsort(axis=0).argsort(axis=0)
            yield (ranks < round(keep * len(columns))).reshape(kernel.shape)
        else:
            yield words >> np.uint64(11) < keep * 2**53


@settings(max_examples=20)
@given(st.floats(0, 1), st.sampled_from([None, 0.0, 1.0]), st.integers(0, 2**40))
def test_pruning_keeps_the_weights_of_random_masks_and_zeroes_the_others(fraction, first, seed):
    model, keep = network(), 1 - fraction
    before, others = kernels(model), vectors(model)
    first_keep = {} if first is None else {"first_layer_keep": first}
    report = random_prune(model, fraction, seed=seed, **first_keep)
    masks = random_masks(before, [max(keep, 0.8 if first is None else first), keep, keep], seed)
    for old, new, mask, layer in zip(before, kernels(model), masks, report.layers, strict=True):
        assert new.tobytes() == np.where(mask, old, np.float32(0)).tobytes()  # +0.0 only
        assert (layer.total, layer.kept) == (mask.size, mask.sum())
        assert layer.fraction_pruned == pytest.approx(1 - mask.mean())
    assert report.fraction_pruned == pytest.approx(share_of_zeros(kernels(model)))
    for old, new in zip(others, vectors(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_masks_are_the_guaranteed_ones():
    model = keras.Sequential([keras.Input((784,)), layers.Dense(10, use_bias=False)])  # F1's
    agnosticize(model, 0.08, 4 / 7, seed=0)
    digest = hashlib.sha256(np.packbits(kernels(model)[0] != 0).tobytes()).hexdigest()
    assert digest.startswith("fe48e862d5335ed6bd09af944b8fa4ff")


@settings(max_examples=20)
@given(st.tuples(*3 * [st.floats(0, 1)]), st.integers(0, 2**40), st.booleans())
def test_agnosticize_gives_the_weights_of_random_masks_one_value(keeps, seed, constant_fan_in):
    model = network()
    others = vectors(model)
    how = {"seed": seed, "constant_fan_in": constant_fan_in}
    report = agnosticize(model, -0.03, np.array(keeps), **how)
    masks = random_masks(kernels(model), keeps, **how)
    for new, mask, layer in zip(kernels(model), masks, report.layers, strict=True):
        assert new.tobytes() == np.where(mask, np.float32(-0.03), np.float32(0)).tobytes()
        assert layer.kept == mask.sum()
    for old, new in zip(others, vectors(model), strict=True):
        np.testing.assert_array_equal(old, new)


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
    for first in range(0, 40, 10):
        x, y = X[first:][:10], Y[first:][:10]
        found = gradients(reference, x, y, LOSS)
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
