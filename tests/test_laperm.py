"""LaPerm as users meet it: compile, fit, save, load, go on."""

import shutil

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import (
    BATCH,
    LOSS,
    X,
    Y,
    assert_permuted,
    assert_same_weights,
    build_model,
    matrices,
    train,
)

import laperm_lib
from laperm_lib import LaPerm, SGPerm, permutation

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(1)

# How a step can be run besides as the backend does by itself: TensorFlow and torch as a graph and
# step by step, JAX compiled. torch's compiler warns of its own code and of Keras's.
COMPILED_BY_TORCH = pytest.param(
    {"jit_compile": True},
    marks=[
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    ],
)
EXECUTIONS = {
    "tensorflow": [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}],
    "jax": [{}, {"jit_compile": False}, {"steps_per_execution": 4}],
    "torch": [{}, COMPILED_BY_TORCH],
}[BACKEND]


def by_the_definition(sync_period, epochs=1):
    """Algorithm 1 in a loop of its own: Adam's step, then the reference reconnection."""
    model = build_model()
    vectors = laperm_lib.weight_vectors.of(model)
    initial = [v.matrix() for v in vectors]
    model.compile(keras.optimizers.Adam(0.01), loss=LOSS)
    last = epochs * len(X) // BATCH
    for step in range(1, last + 1):
        first = (step - 1) * BATCH % len(X)
        model.train_on_batch(X[first : first + BATCH], Y[first : first + BATCH])
        if step % sync_period and step < last:
            continue
        for v, start in zip(vectors, initial, strict=True):
            pairs = zip(v.matrix(), start, strict=True)
            rows = np.array([permutation.reconnect_reference(w, w0) for w, w0 in pairs])
            v.variable.assign(permutation.from_matrix(rows, tuple(v.variable.shape), v.neuron_axes))
    return model


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_fit_follows_algorithm_1(execution):
    expected, model = by_the_definition(sync_period=4, epochs=2), build_model()
    start = matrices(model)
    model.compile(LaPerm(keras.optimizers.Adam(0.01), 4), loss=LOSS, **execution)
    train(model, None, epochs=2)  # which builds the optimizer
    exact = not execution or "steps_per_execution" in execution
    for new, reference in zip(model.get_weights(), expected.get_weights(), strict=True):
        if exact and BACKEND != "jax":
            np.testing.assert_array_equal(new, reference)
        else:  # another program rounds otherwise
            np.testing.assert_allclose(new, reference, rtol=1e-3, atol=1e-4)
    assert start.keys() == {"conv/kernel", "dense/kernel"}
    assert_permuted(start, matrices(model))
    assert model.optimizer.is_permutation()


SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([6], [2, 5])


class RecordSynchronised(keras.callbacks.Callback):
    """After which steps the network is a permutation of its start."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        if self.model.optimizer.is_permutation():
            self.steps.append(int(self.model.optimizer.iterations))


@pytest.mark.parametrize(
    ("period", "fits", "steps"),
    [
        (4, [2], [4, 8, 12, 16]),  # counted over epochs
        (SCHEDULE, [2], [2, 4, 6, 11, 16]),
        (6, [1, 1], [6, 12, 18]),  # counted on after `fit` has ended
    ],
)
def test_the_period_is_counted_in_steps(period, fits, steps):
    record, model, optimizer = RecordSynchronised(), build_model(), LaPerm("adam", period)
    for epochs in fits:
        train(model, optimizer, epochs=epochs, callbacks=[record])
    assert record.steps == steps


def test_accumulated_gradients_count_as_one_step():
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    record = RecordSynchronised()
    optimizer = LaPerm(inner, 1)
    train(build_model(), optimizer, callbacks=[record])
    # Between updates the weights stay as they were synchronised.
    assert record.steps[-1] == 3
    assert int(optimizer.iterations) == 3


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_zeros_of_both_signs_and_ties_are_synchronised_as_the_reference_does(execution):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(5, use_bias=False, name="d")])
    kernel = model.get_layer("d").kernel
    initial = RNG.choice(np.array([-1, -0.0, 0.0, 0.0, 1], "float32"), size=(8, 5))
    kernel.assign(initial)
    model.compile(LaPerm(keras.optimizers.SGD(1.0), 1), loss="mse", **execution)
    # Inputs of 0 leave their weights exactly as they are: ties of both signs are sorted.
    x = np.repeat([[1, 0, 1, 0, 0, 1, 0, 0]], 4, axis=0).astype("float32")
    free = model.predict(x, verbose=0)  # what a step of gradient descent is made of
    target = np.round(RNG.normal(size=(4, 5))).astype("float32")
    trained = initial - (2 * x.T @ (free - target) / target.size).astype("float32")
    model.fit(x, target, batch_size=4, verbose=0)
    pairs = zip(trained.T, initial.T, strict=True)
    expected = np.array([permutation.reconnect_reference(w, w0) for w, w0 in pairs]).T
    new = ops.convert_to_numpy(kernel)
    np.testing.assert_array_equal(new.view("uint32"), expected.view("uint32"))


def test_a_checkpoint_between_synchronisations_goes_on_exactly(tmp_path):
    """Nine steps an epoch and k = 4: at the end of an epoch the network is not synchronised."""
    uncut = build_model()
    saving = keras.callbacks.ModelCheckpoint(str(tmp_path / "epoch{epoch}.keras"))
    train(uncut, LaPerm("adam", 4, skip_bias=False), epochs=2, callbacks=[saving])
    resumed = keras.models.load_model(tmp_path / "epoch1.keras")
    assert not resumed.optimizer.is_permutation()
    train(resumed, None)
    assert_same_weights(uncut, resumed)


def test_the_configuration_round_trips():
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = LaPerm(inner, SCHEDULE, skip_bias=False, skip_batch_norm=False, exclude=["head"])
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert again.inner_optimizer.momentum == 0.9
    assert LaPerm.from_config(LaPerm("adam", np.int64(20)).get_config()).sync_period == 20


def test_weights_that_are_loaded_later_count_as_initial_when_captured():
    model, other = build_model(), build_model(seed=1)
    train(model, LaPerm(keras.optimizers.Adam(0.05), 4))  # enough for every kernel to change
    model.set_weights(other.get_weights())
    assert not model.optimizer.is_permutation()
    model.optimizer.capture(model)
    train(model, None)
    assert_permuted(matrices(other), matrices(model))


def test_learning_rate_steps_and_averages_are_the_inner_optimizers():
    inner = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
    optimizer = LaPerm(inner, 4)
    assert optimizer.sync_period == 4
    optimizer.learning_rate = 0.5
    assert float(inner.learning_rate) == 0.5
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.25)
    train(build_model(), optimizer, callbacks=[schedule])
    assert float(inner.learning_rate) == 0.25
    assert int(inner.iterations) == int(optimizer.iterations) == 9
    assert optimizer.is_permutation()  # once `fit` has put the averaged weights into the model


def test_impossible_arguments_are_named():
    for inner, period, why in [
        *(("adam", period, "sync_period") for period in (0, 2.5, True, None)),
        *(("adam", lambda _, k=k: k, "sync_period schedule") for k in (0, np.nan, [1, 2])),
        ("adam", lambda step: step - 1, "sync_period schedule gives 0 at step 1"),
        (None, 20, "inner_optimizer is an optimizer of Keras or its name, got None"),
        (3, 20, "optimizer"),
        (LaPerm("adam", 2), 20, "LaPerm cannot wrap LaPerm, which permutes too"),
        (SGPerm(), 20, "LaPerm cannot wrap SGPerm, which permutes too"),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), 20, "LossScaleOptimizer"),
        (keras.optimizers.Adam(loss_scale_factor=2.0), 20, "LossScaleOptimizer"),
    ]:
        with pytest.raises(ValueError, match=why):
            LaPerm(inner, period)
    LaPerm("adam", lambda step: step)  # no period at step 0, which no step asks for


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_a_nan_names_the_variable_and_nothing_is_overwritten(execution):
    """A NaN in an input reaches a kernel by its gradient in the fifth step; k = 6."""
    x = X.copy()
    x[4 * BATCH, 0, 0, 0] = np.nan
    model = build_model()
    start = matrices(model)
    with pytest.raises(Exception, match=r"conv/kernel.*NaN or an infinity"):
        train(model, LaPerm("adam", 6), x=x, **execution)
    end = matrices(model)
    assert np.isnan(end["conv/kernel"]).any()
    assert not permutation.is_permutation(start["dense/kernel"], end["dense/kernel"])


def test_an_error_in_a_step_is_not_hidden_by_the_last_synchronisation():
    def broken(y_true, y_pred):
        raise RuntimeError("broken loss")

    model = build_model()
    model.compile(LaPerm("adam", 4), loss=broken)
    with pytest.raises(RuntimeError, match="broken loss"):
        model.fit(X, Y, verbose=0)


def test_apply_gradients_gives_the_step_count():
    variables, optimizer = build_model().trainable_variables, LaPerm("adam", sync_period=2)
    pairs = [(ops.zeros(variable.shape), variable) for variable in variables]
    steps = [int(ops.convert_to_numpy(optimizer.apply_gradients(pairs))) for _ in range(3)]
    assert steps == [1, 2, 3]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's AutoGraph")
@pytest.mark.parametrize("make", [lambda: LaPerm("adam", sync_period=2), SGPerm])
def test_a_training_loop_of_ones_own_is_traced_without_warnings(make, caplog):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    start, optimizer = matrices(model), make()

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = ops.mean(model(x) ** 2)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        if ops.sum(x) > 0:  # AutoGraph's work
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            optimizer.apply(gradients, variables)

    with caplog.at_level("WARNING", logger="tensorflow"):
        for sign in (1, -1, 1, -1):
            step(sign * tf.ones((2, 4)))
    assert int(optimizer.iterations) == 4
    assert all(map(permutation.is_permutation, start.values(), matrices(model).values()))
    assert "AutoGraph" not in caplog.text


def test_the_first_period_begins_with_the_initial_weights():
    """The inner optimizer may have taken steps before."""
    adam, model = keras.optimizers.Adam(), build_model()
    train(model, adam)  # nine steps
    optimizer = LaPerm(adam, sync_period=5)
    model.compile(optimizer, loss=model.loss)
    optimizer.capture(model)
    assert optimizer.last_sync == 9
    model.train_on_batch(X[:BATCH], Y[:BATCH])
    assert not optimizer.is_permutation()
    for _ in range(4):
        model.train_on_batch(X[:BATCH], Y[:BATCH])
    assert optimizer.last_sync == 14
    assert optimizer.is_permutation()
