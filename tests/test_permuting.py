"""What LaPerm and SGPerm have in common, seen from outside."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from small_network import assert_same_weights, build_model, matrices, train

from laperm_lib import LaPerm, NonFiniteWeightError, SGPerm, UnknownLayerError, permutation


def laperm(inner=None, **how):
    return LaPerm(inner or keras.optimizers.Adam(0.01), 4, **how)


both = pytest.mark.parametrize("make", [laperm, SGPerm])


def assert_permuted(start, end):
    assert start.keys() == end.keys()
    for path in start:
        assert permutation.is_permutation(start[path], end[path])
        assert not np.array_equal(start[path], end[path])


@both
def test_a_saved_and_loaded_model_goes_on_as_if_nothing_had_happened(make, tmp_path):
    uncut = build_model()
    start = matrices(uncut, ("kernel", "bias"))
    train(uncut, make(skip_bias=False))
    uncut.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    train(uncut, None, epochs=2)
    train(resumed, None, epochs=2)
    assert_same_weights(uncut, resumed)
    end = matrices(resumed, ("kernel", "bias"))
    assert all(permutation.is_permutation(start[path], end[path]) for path in start)
    assert int(resumed.optimizer.iterations) == 27


@both
def test_capture_refuses_another_model(make):
    optimizer = make()
    optimizer.capture(build_model())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.capture(build_model())


@both
def test_a_step_before_the_variables_are_known(make):
    with pytest.raises(ValueError, match="not built"):
        make().apply([np.zeros(3)])


@both
def test_inside_a_loss_scale_optimizer(make):
    optimizer = make()
    model = build_model()
    start = matrices(model)
    train(model, keras.optimizers.LossScaleOptimizer(optimizer))
    assert int(optimizer.iterations) > 0
    for path, end in matrices(model).items():
        assert permutation.is_permutation(start[path], end)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("make", [lambda: laperm(keras.optimizers.SGD(0.5)), SGPerm])
def test_reduced_precision(make, policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model()
        start = matrices(model)
        train(model, make())
    finally:
        keras.config.set_dtype_policy(previous)
    assert_permuted(start, matrices(model))


@pytest.mark.parametrize(
    ("make", "epochs"), [(lambda: LaPerm(keras.optimizers.Adam(0.003), 20), 15), (SGPerm, 10)]
)
def test_it_learns(make, epochs):
    """The digits that scikit-learn has, by permutation alone."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.astype("float32") / 16, y, random_state=0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation="relu", kernel_initializer="he_uniform"),
            layers.Dense(10, kernel_initializer="he_uniform"),
        ]
    )
    model.compile(
        make(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
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
def test_there_must_be_something_to_permute(make):
    with pytest.raises(ValueError, match="Nothing is left to work on"):
        train(build_model(), make(exclude=["kernel"]))


@both
def test_a_nan_at_the_start_is_an_error(make):
    model = build_model()
    model.get_layer("dense").kernel.assign(np.full((64, 3), np.nan))
    with pytest.raises(NonFiniteWeightError, match=r"initial values of .*dense/kernel"):
        make().capture(model)


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


@pytest.mark.parametrize("make", [lambda: LaPerm("adam", 2), lambda: SGPerm()])
def test_kernels_that_no_permutation_can_change_are_named(make, caplog):
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(4, name="of_one"),
            keras.layers.Dense(3, name="equal", kernel_initializer="ones"),
            keras.layers.Dense(2, name="free"),
        ]
    )
    make().capture(model)
    assert "Permuting cannot change of_one/kernel, equal/kernel: " in caplog.text
    assert "free" not in caplog.text
