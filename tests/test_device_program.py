"""The device program: the same networks as step by step, alone and side by side."""

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm, device_program, weight_vectors
from laperm_lib.augmentation import Augmentation
from laperm_lib.batches import Batches
from laperm_lib.constraints import keep_zeros
from laperm_lib.device_lane import Lane, next_synchronisation
from laperm_lib.device_program import DeviceProgram
from laperm_lib.initializers import SeededInitializer

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax (make test-backends)"
)
# A float32 sum in another order differs in the last bits.
TOLERANCE = {"rtol": 0, "atol": 1e-5}
EPOCHS = 3


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    x = generator.random((50, 8, 8, 1), dtype=np.float32)
    return x, (x.mean(axis=(1, 2, 3)) > 0.5).astype("int64")


def compiled(seed=0, sync_period=6, pruned=0.0, *, activation="relu", rate=0.3, l2=0.01, loss=None):
    """A small network with everything that has a state: batch normalisation, dropout, L2."""

    def values(name):
        return SeededInitializer("he_uniform", seed, name)

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(
        4,
        3,
        activation=activation,
        kernel_initializer=values("conv"),
        kernel_regularizer=keras.regularizers.L2(l2),
    )(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(rate, seed=seed)(keras.layers.Flatten()(x))
    x = keras.layers.Dense(2, kernel_initializer=values("dense"))(x)
    model = keras.Model(inputs, x)
    if pruned:
        kernel = model.layers[-1].kernel
        mask = np.random.default_rng(seed).random(tuple(kernel.shape)) >= pruned
        kernel.assign(keras.ops.convert_to_numpy(kernel) * mask)
    rates = keras.optimizers.schedules.ExponentialDecay(1e-3, 7, 0.9, staircase=True)
    # With its own epsilon of 1e-7 Adam makes steps of the last bits of a gradient that is nearly 0.
    optimizer = keras.optimizers.Adam(rates, epsilon=1e-3)
    if sync_period is not None:
        optimizer = LaPerm(optimizer, sync_period)
    model.compile(optimizer, loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def by_fit(model, data, seed, augmentation=None):
    batches = Batches(
        *data, batch_size=8, epochs=EPOCHS, seed=seed, augmentation=augmentation
    )  # 7 steps an epoch, the last of two images
    model.fit(batches, shuffle=False, verbose=0)
    return model


def by_program(models, data, seeds, augmentation=None, vectorised=None):
    program = DeviceProgram(
        models,
        *data,
        batch_size=8,
        seeds=seeds,
        augmentation=augmentation,
        vectorised=vectorised,
    )
    losses = program.advance(EPOCHS * program.steps_per_epoch)
    program.write_back()
    for model in models:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    assert losses.shape == (len(models),)
    assert np.isfinite(losses).all()
    return models


def assert_same(model, other):
    for first, second in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (first, second)), **TOLERANCE)
    assert int(model.optimizer.iterations) == int(other.optimizer.iterations)


# As on an accelerator, in a compiled loop, and as on a CPU.
both_ways = pytest.mark.parametrize("vectorised", [True, False], ids=["vectorised", "in turn"])


@needs_jax
@both_ways
@pytest.mark.parametrize(
    ("sync_period", "augmentation"),
    [(None, None), (1, None), (6, Augmentation(rotation=10, shift=0.1, flip=True)), (1000, None)],
)
def test_equals_the_step_by_step_path(data, sync_period, augmentation, vectorised):
    expected = by_fit(compiled(sync_period=sync_period), data, 3, augmentation)
    (model,) = by_program([compiled(sync_period=sync_period)], data, [3], augmentation, vectorised)
    assert_same(model, expected)
    if sync_period:
        assert model.optimizer.last_sync == expected.optimizer.last_sync
        assert model.optimizer.is_permutation()


@needs_jax
@pytest.mark.parametrize(
    "settings",
    [{"loss": "mse"}, {"loss": ["mse"], "loss_weights": [3.0]}],
    ids=["by its name", "weighted"],
)
def test_losses_are_those_of_fit(data, settings):
    data = (data[0], np.eye(2, dtype="float32")[data[1]])
    by_steps, model = compiled(), compiled()
    for each in (by_steps, model):
        each.compile(each.optimizer, **settings)
    by_program([model], data, [3])
    assert_same(model, by_fit(by_steps, data, 3))


@needs_jax
@both_ways
def test_runs_side_by_side_equal_each_alone(data, vectorised):
    """Runs that differ in seed, pruning and sync period, and an epoch that ends in a part batch."""
    settings = [(0, 6, 0.0), (1, 6, 0.5), (2, 4, 0.0), (3, 1000, 0.8)]
    augmentation = Augmentation(shift=0.2)
    alone = [by_program([compiled(*each)], data, [each[0]], augmentation)[0] for each in settings]
    together = by_program(
        [compiled(*each) for each in settings],
        data,
        [s for s, *_ in settings],
        augmentation,
        vectorised,
    )
    for one, other, (_, _, pruned) in zip(alone, together, settings, strict=True):
        assert_same(other, one)
        assert other.optimizer.is_permutation()
        zeros = (weight_vectors.of(other)[-1].matrix() == 0).mean()
        assert zeros == pytest.approx(pruned, abs=0.1)


@needs_jax
@both_ways
def test_a_block_may_be_cut_anywhere(data, vectorised):
    """Evaluations and checkpoints cut blocks; the network does not depend on where."""
    (whole,) = by_program([compiled()], data, [0], vectorised=vectorised)
    model = compiled()
    program = DeviceProgram([model], *data, batch_size=8, seeds=[0], vectorised=vectorised)
    for steps in (1, 4, 1, 7, 0, 8):
        program.advance(steps)
    program.write_back()
    # A new program takes up what the old one has written back.
    assert program.step == 21
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for first, second in zip(whole.weights, model.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@needs_jax
def test_no_steps_and_impossible_ones(data):
    program = DeviceProgram([compiled(0), compiled(1)], *data, batch_size=8, seeds=[0, 1])
    assert program.advance(0).tolist() == [0, 0]
    for steps in (-1, 1.5):
        with pytest.raises(ValueError, match="steps is an integer of at least 0"):
            program.advance(steps)
    assert program.step == 0


@needs_jax
@pytest.mark.parametrize(
    ("device", "lanes"),
    [("gpu", [(3, True)]), ("cpu", [(1, False)] * 3)],
)
def test_convolutions_go_by_themselves_on_a_cpu(data, monkeypatch, device, lanes):
    made = []

    class Noting(Lane):
        def __init__(self, models, seeds, samples, compiled):
            made.append((len(models), compiled.looped))
            super().__init__(models, seeds, samples, compiled)

    monkeypatch.setattr("jax.default_backend", lambda: device)
    monkeypatch.setattr(device_program, "Lane", Noting)
    DeviceProgram([compiled(seed) for seed in range(3)], *data, batch_size=8, seeds=range(3))
    assert made == lanes


@needs_jax
def test_another_program_goes_on(data):
    (whole,) = by_program([compiled()], data, [0])
    model = compiled()
    program = DeviceProgram([model], *data, batch_size=8, seeds=[0])
    program.advance(10)
    program.write_back()
    second = DeviceProgram([model], *data, batch_size=8, seeds=[0], first_step=10)
    second.advance(11)
    second.write_back()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for one, other in zip(whole.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@needs_jax
def test_accuracy_is_that_of_the_model(data):
    models = [compiled(0), compiled(1)]
    program = DeviceProgram(models, *data, batch_size=8, seeds=[0, 1])
    program.advance(7)
    measured = program.accuracy(*data)
    program.write_back()
    for model, accuracy in zip(models, measured, strict=True):
        right = np.asarray(model(data[0])).argmax(axis=1) == data[1]
        assert accuracy == pytest.approx(right.mean(), abs=1e-6)


@needs_jax
def test_a_network_that_has_diverged_is_told(data):
    model = compiled()
    program = DeviceProgram([model], data[0] * np.float32(np.nan), data[1], batch_size=8, seeds=[0])
    assert np.isnan(program.advance(6)).all()


@needs_jax
def test_runs_that_do_not_match(data):
    def program(*models, seeds=(0, 1)):
        return DeviceProgram(models, *data, batch_size=8, seeds=seeds)

    with pytest.raises(ValueError, match="make no runs"):
        program(compiled(), seeds=[])
    with pytest.raises(ValueError, match="one architecture"):
        program(compiled(), compiled(sync_period=None))
    other = compiled()
    other.compile(LaPerm(keras.optimizers.Adam(0.5), 6), other.loss)
    with pytest.raises(ValueError, match="one architecture"):
        program(compiled(), other)
    with pytest.raises(ValueError, match="not compiled"):
        program(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]), seeds=[0])


@needs_jax
@pytest.mark.parametrize(
    "difference",
    [
        {"activation": "tanh"},
        {"rate": 0.4},
        {"l2": 0.02},
        {"loss": keras.losses.SparseCategoricalCrossentropy()},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_networks_of_the_same_layers_that_compute_something_else(data, difference):
    with pytest.raises(ValueError, match="one architecture"):
        DeviceProgram([compiled(), compiled(**difference)], *data, batch_size=8, seeds=[0, 1])


def nested(activation="relu"):
    """A layer that is used twice, in a model inside of a model."""
    inner = keras.Sequential([keras.layers.Dense(64, activation=activation)])
    inputs = keras.Input((8, 8, 1))
    x = inner(inner(keras.layers.Flatten()(inputs)))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


class Subclassed(keras.Model):
    """What it computes is in its code; it has no configuration."""

    def __init__(self, activation="relu"):
        super().__init__()
        self.function = keras.activations.get(activation)
        self.hidden, self.last = keras.layers.Dense(8), keras.layers.Dense(2)
        self.build((None, 8, 8, 1))

    def build(self, shape):
        self.hidden.build((None, 64))
        self.last.build((None, 8))
        self.built = True

    def call(self, x, training=None):
        return self.last(self.function(self.hidden(keras.ops.reshape(x, (-1, 64)))))


@needs_jax
@pytest.mark.parametrize("network", [nested, Subclassed])
def test_networks_alike_are_told_by_what_they_compute(data, network):
    models = [network(), network(), network("tanh")]
    for model in models:
        model.compile(LaPerm("adam", 6), keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(ValueError, match="one architecture"):
        DeviceProgram(models, *data, batch_size=8, seeds=[0, 1, 2])
    by_program(models[:2], data, [0, 1])


@needs_jax
def test_pruned_weights_that_are_kept_at_zero(data):
    """The masks are part of the program, so they have to be those of all runs."""

    def pruned(seed):
        model = compiled(seed, None, 0.5)
        keep_zeros(model)
        return model

    with pytest.raises(ValueError, match="constraints"):
        DeviceProgram([pruned(0), pruned(1)], *data, batch_size=8, seeds=[0, 1])
    alike = [pruned(0), pruned(0)]
    zeros = keras.ops.convert_to_numpy(alike[0].layers[-1].kernel) == 0
    for model in by_program(alike, data, [0, 1]):
        np.testing.assert_array_equal(np.asarray(model.layers[-1].kernel) == 0, zeros)


@needs_jax
@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "scales the loss"),
        (lambda: keras.optimizers.LossScaleOptimizer(LaPerm("sgd", 6)), "scales the loss"),
        (lambda: keras.optimizers.SGD(loss_scale_factor=1024), "SGD scales the loss"),
        (lambda: keras.optimizers.Adam(gradient_accumulation_steps=2), "accumulates gradients"),
        (
            lambda: LaPerm(keras.optimizers.Adam(gradient_accumulation_steps=2), 6),
            "Adam accumulates gradients",
        ),
    ],
)
def test_optimizers_for_which_a_batch_is_no_step(data, optimizer, why):
    model = compiled()
    model.compile(optimizer(), model.loss)
    with pytest.raises(ValueError, match=why):
        DeviceProgram([model], *data, batch_size=8, seeds=[0])


def test_synchronisations_come_when_step_by_step_they_would():
    growing = keras.optimizers.schedules.PiecewiseConstantDecay([10], [4, 9])
    for period in (1, 5, growing):
        optimizer = LaPerm("sgd", period)
        last, found = 0, []
        for step in range(1, 60):  # the rule of LaPerm.apply
            now = period(step) if callable(period) else period
            if step - last >= float(now):
                last = step
                found.append(step)
        for stretch in (1, 7, 59):  # that many steps are looked through at a time
            last, step, predicted = 0, 0, []
            while step < 59:
                end = min(59, step + stretch)
                coming = next_synchronisation(optimizer, last, step, end)
                step = min(coming, end)
                if step == coming:
                    last = step
                    predicted.append(step)
            assert predicted == found
    assert next_synchronisation(keras.optimizers.SGD(), 0, 0, 60) == np.inf


@needs_jax
def test_a_schedule_is_asked_no_further_than_training_goes(data):
    asked = []

    def period(step):
        asked.append(int(step))
        return 20_000

    program = DeviceProgram([compiled(sync_period=period)], *data, batch_size=8, seeds=[0])
    asked.clear()
    program.advance(3)
    program.advance(2)
    assert asked == [1, 2, 3, 4, 5]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX is what is needed")
def test_other_backends_are_told(data):
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        DeviceProgram([compiled()], *data, batch_size=8, seeds=[0])
