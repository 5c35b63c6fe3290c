"""SGPerm as users meet it: compile, fit, save, load, go on, hand over."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import X, assert_permuted, assert_same_weights, build_model, matrices, train

from laperm_lib import LaPerm, SGPerm, _backend, permutation
from laperm_lib._random import raw_bits
from laperm_lib.cycles import reference as cycles
from laperm_lib.errors import NonFiniteWeightError

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(1)

# How a step can be run. SGPerm cannot be compiled by XLA on TensorFlow; torch runs one step at a
# time, and its compiler is not tried here.
EXECUTIONS = [{}, {"run_eagerly": True}]
if BACKEND != "torch":
    EXECUTIONS += [{"steps_per_execution": 4}]
if BACKEND == "jax":
    EXECUTIONS += [{"jit_compile": True}]


def by_the_definition(kernels, gradients, seed, **how):
    """Steps in a loop of their own, from the four functions of `cycles`."""
    kernels = [kernel.copy() for kernel in kernels]
    moments = [np.zeros_like(kernel) for kernel in kernels]
    spreads = [np.ptp(k.reshape(-1, k.shape[-1]), axis=0) for k in kernels]
    alpha, ratio = how["alpha0"], how["lambda0"]
    for step, of_step in enumerate(gradients):
        for number, kernel in enumerate(kernels):
            m = moments[number] = cycles.recommend(
                moments[number], of_step[number], learning_rate=0.01, momentum=0.9
            )
            columns, wishes = (a.reshape(-1, a.shape[-1]) for a in (kernel, m))
            words = raw_bits(seed, f"sgperm/{number}/{step}").random_raw(kernel.size)
            places = cycles.shuffle(words.reshape(columns.T.shape))
            part = {"size": max(10, int(ratio * len(columns))), "alpha": alpha}
            for i, spread in enumerate(spreads[number].tolist()):
                columns[:, i] = cycles.permute_vector(
                    columns[:, i].copy(), wishes[:, i], places[i], spread=spread, **part
                )
        alpha, ratio = max(how["beta1"] * alpha, 0.0), min(how["beta2"] * ratio, 1.0)
    return kernels


@pytest.mark.parametrize("shared", [False, True], ids=["distinct", "one value and zeros"])
def test_steps_with_given_gradients_are_those_of_the_definition(shared):
    shapes = [(50, 4), (3, 3, 5, 6), (60, 3)]
    how = {"alpha0": 0.2, "beta1": 0.8, "lambda0": 0.1, "beta2": 1.5}
    kernels = [RNG.uniform(-9, 9, shape).astype("float32") for shape in shapes]
    if shared:
        kernels = [np.where(kernel > 0, np.float32(0.5), np.float32(0)) for kernel in kernels]
        how |= {"alpha0": 1.0, "beta1": 1.0}  # each value must be within reach of the other
    gradients = [[RNG.normal(size=shape).astype("float32") for shape in shapes] for _ in range(8)]
    gradients[3][0][:20] = 0
    of = [layers.Dense(4), layers.Conv2D(6, 3), layers.Dense(3)]
    for layer, inputs in zip(of, [(None, 50), (None, 8, 8, 5), (None, 60)], strict=True):
        layer.build(inputs)
    variables = [layer.kernel for layer in of]
    for variable, kernel in zip(variables, kernels, strict=True):
        variable.assign(kernel)
    optimizer = SGPerm(seed=5, **how)
    for of_step in gradients:
        optimizer.apply([ops.convert_to_tensor(g) for g in of_step], variables)
    expected = by_the_definition(kernels, gradients, seed=5, **how)
    for variable, start, end in zip(variables, kernels, expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), end)
        assert not np.array_equal(start, end)
    assert int(optimizer.iterations) == 8


class CheckPermutation(keras.callbacks.Callback):
    """Whether the kernels are permuted by every step, or every few."""

    def __init__(self, start):
        super().__init__()
        self.now, self.answers = start, []

    def on_train_batch_end(self, batch, logs=None):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        before, self.now = self.now, matrices(self.model)
        assert all(permutation.is_permutation(before[p], self.now[p]) for p in before)
        self.answers.append(any(not np.array_equal(before[p], self.now[p]) for p in before))


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_the_kernels_are_permuted_by_every_step_and_nothing_else_is_changed(execution):
    model = build_model()
    others = matrices(model, ("bias", "normalization"))
    check = CheckPermutation(matrices(model))
    train(model, SGPerm(), epochs=6, callbacks=[check], **execution)
    assert len(check.answers) >= 6 * 9 // execution.get("steps_per_execution", 1)
    assert all(check.answers)
    for path, end in matrices(model, ("bias", "normalization")).items():
        np.testing.assert_array_equal(others[path], end)


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs one step at a time")
def test_steps_run_together_are_those_run_alone():
    first, second = build_model(), build_model()
    train(first, SGPerm(seed=1), epochs=2)
    train(second, SGPerm(seed=1), epochs=2, steps_per_execution=4)
    if BACKEND == "tensorflow":
        assert_same_weights(first, second)
    else:  # another program rounds otherwise, and a permutation knows no "nearly"
        for path, end in matrices(second).items():
            assert permutation.is_permutation(matrices(first)[path], end)


def test_a_variable_without_a_gradient_is_left():
    first, second = layers.Dense(4), layers.Dense(4)
    for layer in (first, second):
        layer.build((None, 30))
    start = ops.convert_to_numpy(first.kernel).copy()
    gradient = ops.convert_to_tensor(RNG.normal(size=(30, 4)).astype("float32"))
    optimizer = SGPerm()
    optimizer.apply([None, gradient], [first.kernel, second.kernel])
    np.testing.assert_array_equal(ops.convert_to_numpy(first.kernel), start)
    assert int(optimizer.iterations) == 1


def test_embeddings():
    """TensorFlow gives the gradient of an embedding as the rows that were looked up."""
    words = RNG.integers(0, 20, size=(90, 5))
    embedding = layers.Embedding(20, 6, name="e")
    model = keras.Sequential([keras.Input((5,)), embedding, layers.Flatten(), layers.Dense(3)])
    start = matrices(model)
    train(model, SGPerm(alpha0=0.3), x=words)
    assert_permuted(start, matrices(model))


def test_the_configuration_round_trips():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([6], [0.1, 0.2])
    optimizer = SGPerm(
        alpha0=0.5, seed=np.int64(3), momentum_learning_rate=schedule, exclude=["head"],
        skip_bias=False, hand_over=(20, keras.optimizers.SGD(0.1, momentum=0.5)), name="mine",
    )  # fmt: skip
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert again.successor.momentum == 0.5
    assert again.hand_over_step == 20
    assert SGPerm.from_config(SGPerm().get_config()).get_config() == SGPerm().get_config()


def test_ranges_of_weights_loaded_later_count_when_captured():
    fresh, captured = build_model(seed=1), build_model()
    train(captured, SGPerm(seed=3))
    captured.set_weights(fresh.get_weights())
    captured.optimizer.capture(captured)
    captured.optimizer.iterations.assign(0)
    train(captured, None)
    train(fresh, SGPerm(seed=3))
    assert_same_weights(fresh, captured)


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_another_optimizer_goes_on_after_the_step(execution):
    model, apart = build_model(), build_model()
    start = matrices(model)
    train(model, SGPerm(seed=2, hand_over=(9, keras.optimizers.Adam(0.01))), **execution)
    assert_permuted(start, matrices(model))
    train(model, None)
    train(apart, SGPerm(seed=2), **execution)
    apart.compile(keras.optimizers.Adam(0.01), loss=apart.loss, **execution)
    train(apart, None)
    for ours, expected in zip(model.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
    assert int(model.optimizer.iterations) == 18
    assert int(model.optimizer.successor.iterations) == 9


def test_a_network_handed_over_to_laperm_stays_a_permutation():
    model = build_model()
    start = matrices(model)
    train(model, SGPerm(hand_over=(4, LaPerm("adam", 3))), epochs=2)
    assert_permuted(start, matrices(model))
    assert model.optimizer.successor.is_permutation()
    assert int(model.optimizer.successor.iterations) == 14


def test_the_learning_rate_is_that_of_the_recommendation():
    optimizer = SGPerm(momentum_learning_rate=1)
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 1.0
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.25)
    train(build_model(), optimizer, callbacks=[schedule])
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == 0.25


def test_a_constant_learning_rate_changes_nothing():
    models = [build_model() for _ in range(2)]
    for model, rate in zip(models, (0.5, 0.25), strict=True):  # a power of two rounds alike
        train(model, SGPerm(momentum_learning_rate=rate), epochs=2)
    assert_same_weights(*models)


def test_impossible_arguments_are_named():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    for wrong, message in [
        ({"alpha0": -1}, "alpha0 is a number"),
        ({"momentum_learning_rate": 0}, "momentum_learning_rate is a number above 0"),
        ({"momentum_learning_rate": np.nan}, "momentum_learning_rate is a number above 0"),
        ({"seed": 0.5}, "A seed is an integer"),
        ({"hand_over": "adam"}, r"hand_over is \(step, optimizer\)"),
        ({"hand_over": 5}, r"hand_over is \(step, optimizer\)"),
        ({"hand_over": (0, "adam")}, "step of hand_over is an integer of at least 1"),
        ({"hand_over": (5, "adamant")}, "adamant"),
        ({"hand_over": (5, None)}, r"hand_over is \(step, optimizer\)"),
        ({"hand_over": (5, keras.optimizers.Adam(loss_scale_factor=2.0))}, "LossScaleOptimizer"),
        ({"hand_over": (5, scaled)}, "LossScaleOptimizer"),
    ]:
        with pytest.raises(ValueError, match=message):
            SGPerm(**wrong)


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_a_gradient_that_is_not_finite_is_named_and_nothing_is_moved(execution):
    """A NaN in an input of the first step reaches the gradient of every kernel."""
    x = X.copy()
    x[0, 0, 0, 0] = np.nan
    model = build_model()
    start = matrices(model)
    with pytest.raises(Exception, match=r"gradient of .*kernel' holds a NaN"):
        train(model, SGPerm(), x=x, **execution)
    for path, end in matrices(model).items():
        np.testing.assert_array_equal(start[path], end)


@pytest.mark.parametrize("count", [1, 3])
def test_a_compiled_step_permutes_any_number_of_variables(count):
    model = keras.Sequential([keras.Input((20,)), *(layers.Dense(20) for _ in range(count))])
    start = matrices(model)
    model.compile(SGPerm(alpha0=0.5), "mse")
    model.fit(np.eye(20), RNG.normal(size=(20, 20)), verbose=0)
    assert_permuted(start, matrices(model))


@pytest.mark.skipif(BACKEND == "jax", reason="says so when fit ends")
def test_a_step_says_at_once_that_a_gradient_is_not_finite():
    model = build_model()
    gradients = [ops.full(v.shape, np.nan) for v in model.trainable_variables]
    with pytest.raises(NonFiniteWeightError, match=r"gradient of .*kernel' holds a NaN"):
        SGPerm().apply(gradients, model.trainable_variables)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA calls host functions elsewhere")
@pytest.mark.parametrize("hand_over", [None, (3, "adam")])
def test_a_step_compiled_by_xla_is_refused_on_tensorflow(hand_over):
    model = build_model()
    start = model.get_weights()
    with pytest.raises(ValueError, match="jit_compile=False"):
        train(model, SGPerm(hand_over=hand_over), jit_compile=True)
    assert all(map(np.array_equal, start, model.get_weights()))


@pytest.mark.skipif(BACKEND != "jax", reason="other backends reach the CPU from anywhere")
def test_jax_on_an_accelerator_is_refused(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="JAX_PLATFORMS=cpu"):
        train(build_model(), SGPerm())


def test_several_devices_are_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keras.distribution, "distribution", lambda: object())
        with pytest.raises(ValueError, match="one device"):
            _backend.check_one_cpu_device("SGPerm")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        two_replicas = SimpleNamespace(num_replicas_in_sync=2)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda: two_replicas)
        with pytest.raises(ValueError, match="one device"):
            _backend.check_one_cpu_device("SGPerm")
