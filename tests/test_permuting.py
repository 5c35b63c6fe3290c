"""What LaPerm and SGPerm have in common, seen from outside."""

import functools
import gc

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from small_network import (
    LOSS,
    assert_permuted,
    assert_same_weights,
    both,
    build_model,
    dtype_policy,
    laperm,
    matrices,
    train,
)

from laperm_lib import LaPerm, NonFiniteWeightError, SGPerm, UnknownLayerError, permutation


@pytest.mark.parametrize(
    "make",
    [functools.partial(laperm, keras.optimizers.Adam(0.3)), functools.partial(SGPerm, alpha0=1)],
)
def test_biases_and_batch_normalisation_can_be_permuted(make):
    model, kinds = build_model(), ("kernel", "bias", "normalization")
    model.get_layer("bn").gamma.assign([1.0, 1.001, 1.002, 1.003])
    model.get_layer("bn").beta.assign([0.1, 0.101, 0.102, 0.103])
    start = matrices(model, kinds)
    optimizer = make(skip_bias=False, skip_batch_norm=False)
    train(model, optimizer, epochs=3)
    end = matrices(model, kinds)
    assert all(permutation.is_permutation(start[path], end[path]) for path in start)
    moved = {path for path in start if not np.array_equal(start[path], end[path])}
    assert len(optimizer.permuted_variables) == 6
    assert moved & {"conv/bias", "dense/bias"}
    assert moved & {"bn/gamma", "bn/beta"}


@both
def test_capture_before_training(make):
    model, optimizer = build_model(), make()
    optimizer.capture(model)
    assert len(optimizer.permuted_variables) == 2
    start = matrices(model)
    if make is laperm:  # it knows the values, SGPerm their range
        model.get_layer("dense").kernel.assign(np.ones((64, 3)))
    train(model, optimizer)
    assert_permuted(start, matrices(model))


@pytest.mark.parametrize("make", [SGPerm, lambda **how: SGPerm(hand_over=(5, "adam"))])
def test_a_saved_and_loaded_model_goes_on_as_if_nothing_had_happened(make, tmp_path):
    uncut = build_model()
    train(uncut, make(skip_bias=False))
    uncut.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    train(uncut, None, epochs=2)
    train(resumed, None, epochs=2)
    assert_same_weights(uncut, resumed)
    assert int(resumed.optimizer.iterations) == 27


@both
def test_what_cannot_work_is_refused(make):
    model, optimizer = build_model(), make()
    for ask in (lambda: optimizer.permuted_variables, optimizer.summary):
        with pytest.raises(ValueError, match="No initial values yet"):
            ask()
    with pytest.raises(ValueError, match="not built"):
        optimizer.apply([np.zeros(3)])
    optimizer.capture(model)
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.capture(build_model())
    for exclude in ("(", ["ok", "["], [3]):
        with pytest.raises(ValueError, match="exclude takes regular expressions"):
            make(exclude=exclude)
    with pytest.raises(ValueError, match="Nothing is left to work on"):
        train(model, make(exclude=["kernel"]))
    model.get_layer("dense").kernel.assign(np.full((64, 3), np.nan))
    with pytest.raises(NonFiniteWeightError, match=r"initial values of .*dense/kernel"):
        make().capture(model)


@both
def test_inside_a_loss_scale_optimizer(make):
    optimizer, model = make(), build_model()
    start = matrices(model)
    train(model, keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8))
    assert int(optimizer.iterations) == 9
    assert_permuted(start, matrices(model))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("make", [lambda: laperm(keras.optimizers.SGD(0.5)), SGPerm])
def test_reduced_precision(make, policy):
    with dtype_policy(policy):
        model = build_model()
        start = matrices(model)
        train(model, make())
    assert_permuted(start, matrices(model))


@pytest.mark.parametrize(
    ("make", "epochs"), [(lambda: LaPerm(keras.optimizers.Adam(0.003), 20), 15), (SGPerm, 10)]
)
def test_it_learns(make, epochs):
    """The digits that scikit-learn has, by permutation alone."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.astype("float32") / 16, y, random_state=0)
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(64, activation="relu", kernel_initializer="he_uniform")
    output = layers.Dense(10, kernel_initializer="he_uniform")
    model = keras.Sequential([keras.Input((64,)), hidden, output])
    model.compile(make(), loss=LOSS, metrics=["accuracy"])
    start = matrices(model)
    model.fit(parts[0], parts[2], batch_size=32, epochs=epochs, verbose=0)
    assert model.evaluate(parts[1], parts[3], verbose=0)[1] > 0.9
    assert_permuted(start, matrices(model))


@both
def test_an_unknown_layer_stops_training_before_it_starts(make):
    class Odd(keras.Layer):
        def build(self, shape):
            self.odd = self.add_weight(shape=(shape[-1], 3), name="odd")

        def call(self, x):
            return ops.matmul(x, self.odd)

    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), Odd()])
    before = model.get_weights()
    with pytest.raises(UnknownLayerError, match="register"):
        train(model, make())
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(4), Odd()])
    optimizer = make(exclude=["odd$"])
    train(model, optimizer)
    assert optimizer.permuted_variables == [model.layers[1].kernel]


@both
@pytest.mark.parametrize("execution", [{}, {"run_eagerly": True}], ids=str)
def test_a_variable_that_is_one_number_is_a_vector_of_one(make, execution):
    inputs = keras.Input((6, 6, 2))
    steps = layers.Reshape((18, 4))(inputs)
    attention = layers.Attention(use_scale=True)
    outputs = layers.Dense(3)(layers.Flatten()(attention([steps, steps])))
    model = keras.Model(inputs, outputs)
    attention.scale.assign(0.7)
    optimizer = make(skip_bias=False)
    train(model, optimizer, **execution)
    assert any(variable is attention.scale for variable in optimizer.permuted_variables)
    assert ops.convert_to_numpy(attention.scale) == np.float32(0.7)


@both
def test_layers_hidden_by_gc_freeze_are_found_by_capture(make):
    model, optimizer = build_model(), make()
    start = matrices(model)
    gc.freeze()
    try:
        with pytest.raises(
            UnknownLayerError, match=r"gc\.freeze\(\) has hidden .* capture\(model\)"
        ):
            train(model, make())
        optimizer.capture(model)
        model.compiled = False
        train(model, optimizer)
    finally:
        gc.unfreeze()
    assert_permuted(start, matrices(model))


@both
def test_kernels_that_no_permutation_can_change_are_named(make, caplog):
    of_one, equal = layers.Dense(4), layers.Dense(3, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), of_one, equal, layers.Dense(2, name="free")])
    make().capture(model)
    assert f"cannot change {of_one.kernel.path}, {equal.kernel.path}: " in caplog.text
    assert "free" not in caplog.text


def test_the_zero_kernel_of_lora_is_named_with_what_to_exclude(caplog):
    model = build_model()
    model.get_layer("dense").enable_lora(2)
    train(model, laperm())
    assert "dense/lora_kernel_b: " in caplog.text
    assert "exclude=['lora_kernel_b']" in caplog.text


class Normed(layers.Dense):
    """A layer that scales its own kernel whenever it is called."""

    def call(self, x):
        self.kernel.assign(self.kernel / ops.norm(self.kernel))
        return super().call(x)


@both
@pytest.mark.parametrize(
    "layer",
    [Normed(3, name="odd"), layers.SpectralNormalization(layers.Dense(3), name="odd")],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_write_their_kernels_are_named(make, layer, caplog):
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(4), layer])
    make().build(model.trainable_variables)
    assert f"odd ({type(layer).__name__}) writes its kernel in every forward pass" in caplog.text
    caplog.clear()
    make(exclude=["odd/"]).build(model.trainable_variables)
    make().build(build_model().trainable_variables)
    assert "writes" not in caplog.text


@both
def test_as_many_gradients_as_variables(make):
    model, optimizer = build_model(), make()
    variables = model.trainable_variables
    before = model.get_weights()
    gradients = [ops.ones(v.shape) for v in variables]
    for given in ([], gradients[:2], [*gradients, None]):
        with pytest.raises(ValueError, match=f"need as many gradients.*got {len(given)}"):
            optimizer.apply(given, variables)
    with pytest.raises(ValueError, match=r"need as many gradients.*got 0"):
        optimizer.apply_gradients([])
    with pytest.raises(ValueError, match=r"No gradient for any of .*kernel"):
        optimizer.apply([None] * len(variables), variables)
    assert all(map(np.array_equal, before, model.get_weights()))
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


@pytest.mark.parametrize(
    "make", [lambda n: LaPerm("adam", n), lambda n: SGPerm(hand_over=(n, "adam"))]
)
def test_more_steps_than_can_be_counted(make):
    for steps in (2**64, 10**25, 2**31):
        with pytest.raises(ValueError, match="at most 2147483647"):
            make(steps)
    train(build_model(), make(2**31 - 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [("clipnorm", 0.5), ("clipvalue", 0.1), ("global_clipnorm", 2.0), ("weight_decay", 0.1)],
)
def test_what_keras_offers_reaches_the_inner_optimizer(name, value):
    models = build_model(), build_model()
    inner = keras.optimizers.SGD(0.1, **{name: value})
    outer = LaPerm(keras.optimizers.SGD(0.1), 4)
    setattr(outer, name, value)
    assert getattr(outer, name) == getattr(outer.inner_optimizer, name) == value
    train(models[0], LaPerm(inner, 4))
    train(models[1], outer)
    assert_same_weights(*models)
    with pytest.raises(AttributeError, match=f"SGPerm has no {name}"):
        setattr(SGPerm(), name, value)


def test_what_laperm_cannot_pass_on_is_refused():
    inner = keras.optimizers.AdamW()
    outer = LaPerm(inner, 4)
    outer.exclude_from_weight_decay(var_names=["bias"])
    dense = build_model().get_layer("dense")
    assert inner._use_weight_decay(dense.kernel)
    assert not inner._use_weight_decay(dense.bias)
    for optimizer in (outer, SGPerm()):
        for name, value in [("use_ema", True), ("gradient_accumulation_steps", 2)]:
            with pytest.raises(AttributeError, match=f"has no {name} of its own"):
                setattr(optimizer, name, value)
    with pytest.raises(AttributeError, match="no weight decay"):
        SGPerm().exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(AttributeError, match="schedule"):
        outer.sync_period = 5


@both
def test_the_summary_says_what_is_permuted(make):
    model, optimizer = build_model(), make(exclude=["conv"])
    kernel = ops.convert_to_numpy(model.get_layer("dense").kernel).copy()
    kernel[:, 1], kernel[:, 0] = 2, np.sign(kernel[:, 0])
    model.get_layer("dense").kernel.assign(kernel)
    start = matrices(model)
    train(model, optimizer, epochs=2)
    conv = start["conv/kernel"], matrices(model)["conv/kernel"]
    assert permutation.is_permutation(*conv) == np.array_equal(*conv) == (make is SGPerm)
    rows = {line.split()[0].split("/", 1)[-1]: line for line in optimizer.summary().splitlines()}
    assert rows["conv/kernel"].split()[1:] == ["excluded"]
    otherwise = f"left to {optimizer.inner_optimizer.name}" if make is laperm else "kept"
    for path in ("dense/bias", "bn/gamma"):
        assert rows[path].endswith(f"  {otherwise}")
    distinct = str(np.unique(kernel).size)
    assert rows["dense/kernel"].split()[1:8] == ["permuted", "3", "x", "64", distinct, "1", "0"]
    assert repr(optimizer.summary()) == str(optimizer.summary())
    since = ", 2 since the last regular synchronisation" if make is laperm else ""
    assert optimizer.summary().splitlines()[-1] == f"18 steps{since}"
    if make is laperm:  # between synchronisations
        model.get_layer("dense").kernel.assign(kernel + np.float32(0.25))
        assert "  0.25" in optimizer.summary()
