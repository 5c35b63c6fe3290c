"""Sampling weights in `fit`, and putting others into a model: when, where, and back bit for bit."""

import gc
import weakref
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib import LaPerm, batch_statistics
from laperm_lib.callbacks import PSWA, PSWM, PWALKS, SWA, AverageCheckpoint, Lookahead
from laperm_lib.callbacks.sampling import WeightSampler, replace, replaced, weights_of
from laperm_lib.checkpoints import restore, state_of

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (48, 4)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
BATCH = 4  # 12 steps an epoch

ALL = [
    lambda **options: PSWA(sample_period=2, window=3, **options),
    lambda **options: PWALKS(sample_period=2, window=3, **options),
    lambda **options: PSWM(sample_period=2, momentum=0.6, **options),
    lambda **options: SWA(sample_period=2, **options),
    lambda **options: Lookahead(sample_period=2, **options),
]
BESIDE = ALL[1:4]  # they leave training as it is
KINDS = [ALL[0], ALL[1], ALL[4]]  # replaces weights, leaves them, slow weights

several_steps_at_once = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch takes one step at a time"
)


def network(optimizer="sgd", normalised=False, **options):
    keras.utils.set_random_seed(1)
    normalisation = [layers.BatchNormalization()] if normalised else []
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="relu"), *normalisation, layers.Dense(3)]
    )
    model.compile(optimizer, loss="mse", **options)
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the first step twice
    return model


def fit(model, *callbacks, epochs=1, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def everything(model):
    """All variables as bytes, for NaN and signed zeros too."""
    return [np.array(ops.convert_to_numpy(variable)).tobytes() for variable in model.variables]


def statistics(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.non_trainable_variables]


def assert_equal(some, more):
    assert all(np.array_equal(*pair) for pair in zip(some, more, strict=True))


def break_off(*_):
    raise OSError("gone")


class Spy(WeightSampler):
    """Notes the step of each sample."""

    def __init__(self, **options):
        super().__init__(**options)
        self.steps = []

    def _add(self, weights):
        self.steps.append(int(ops.convert_to_numpy(self.model.optimizer.iterations)))
        self._kept[:] = [weights]


def test_samples_are_taken_when_they_are_due():
    spy, late = Spy(sample_period=5), Spy(sample_period=4, start=6)
    model = network()
    fit(model, spy, late, epochs=2, initial_epoch=0, validation_data=(X, Y), validation_freq=9)
    assert spy.steps == [5, 10, 15, 20]
    assert late.steps == [10, 14, 18, 22]
    fit(model, spy)  # continues from step 24
    assert spy.steps == [5, 10, 15, 20, 25, 30, 35]
    assert spy.samples == 7


@several_steps_at_once
def test_several_steps_at_once_give_the_same_samples():
    samplers = [PWALKS(sample_period=6, window=2) for _ in range(2)]
    for at_once, sampler in zip((1, 3), samplers, strict=True):
        fit(network(steps_per_execution=at_once), sampler, epochs=2)
        assert sampler.samples == 4
    for one, other in zip(*(sampler.average for sampler in samplers), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    model, spy = network(steps_per_execution=5), Spy(sample_period=5)
    fit(model, spy)
    assert spy.steps == [5, 10]  # a last, shorter execution does no harm, but continuing after it
    with pytest.raises(ValueError, match="continues from step 12"):
        fit(model, spy)


@several_steps_at_once
def test_steps_that_callbacks_do_not_see_are_refused():
    class Ahead(keras.callbacks.Callback):
        """Moves the step count after the first check, as if Keras knew no length of an epoch."""

        def on_train_begin(self, logs=None):
            self.model.optimizer.iterations.assign_add(2)

    with pytest.raises(ValueError, match="did not see"):
        fit(network(steps_per_execution=5), Spy(sample_period=5), Ahead())
    for options, epochs, at_once, message in [
        ({"sample_period": 4}, 1, 3, "sample_period must be a multiple of steps_per_execution=3"),
        ({"sample_period": 6, "start": 4}, 1, 3, "start must be a multiple"),
        ({"sample_period": 5}, 2, 5, "an epoch has 12"),
    ]:
        model = network(steps_per_execution=at_once)
        before = everything(model)
        with pytest.raises(ValueError, match=message):
            fit(model, Spy(**options), epochs=epochs)
        assert everything(model) == before


@pytest.mark.parametrize("optimizer", ["sgd", lambda: LaPerm("adam", sync_period=5)])
def test_averages_beside_the_training_do_not_touch_it(optimizer):
    results = []
    for callbacks in ([], [make(in_validation=make is BESIDE[0]) for make in BESIDE]):
        model = network(optimizer() if callable(optimizer) else optimizer)
        fit(model, *callbacks, epochs=2, validation_data=(X, Y))
        results.append(everything(model))
    assert results[0] == results[1]


@pytest.mark.parametrize("make", KINDS)
def test_validation_sees_the_average_and_training_its_own_weights(make):
    watched, sampler = network(), make()
    history = fit(watched, sampler, epochs=2, validation_data=(X, Y)).history
    unwatched = network()
    fit(unwatched, make(in_validation=False), epochs=2, validation_data=(X, Y))
    assert everything(watched) == everything(unwatched)
    with sampler.averaged():
        loss = watched.evaluate(X, Y, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss)
    assert "evaluate" not in vars(watched)
    # Of the averages, all but Lookahead's and PSWA's are other weights than training has now.
    pairs = zip(sampler.average, weights_of(watched), strict=True)
    assert any((a != w).any() for a, w in pairs) == (make in BESIDE)


def test_validation_sees_training_weights_before_there_is_an_average():
    losses = [
        fit(network(), *callbacks, validation_data=(X, Y)).history["val_loss"]
        for callbacks in ([], [PSWA(sample_period=12, window=2)])
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("normalised", [False, True])
def test_validation_that_raises_leaves_the_training_weights(normalised):
    def broken():
        yield X[:8], Y[:8]
        raise OSError("gone")

    plain = network(normalised=normalised)
    fit(plain)
    model = network(normalised=normalised)
    sampler = PWALKS(sample_period=2, window=3, batches=[X])
    with pytest.raises(Exception, match="gone"):
        fit(model, sampler, validation_data=broken())
    assert sampler.samples == 6
    assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in plain.get_weights()]
    # What is left of it is no harm: an evaluation of one's own is not on the average.
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize("raises", [False, True])
def test_an_evaluate_of_the_models_own_is_called_and_stays(raises):
    model, seen = network(), []
    of_class = model.evaluate

    def own(*args, **kwargs):
        seen.append(everything(model))
        return break_off() if raises else of_class(*args, **kwargs)

    model.evaluate = own
    for sampler in (SWA(sample_period=2), PSWM(sample_period=2)):
        with pytest.raises(OSError, match="gone") if raises else nullcontext():
            fit(model, sampler, validation_data=(X, Y))
        with sampler.averaged():
            assert everything(model)[:4] == seen[-1][:4]
    assert len(seen) == 2
    fit(model, PSWA(sample_period=2, window=2))
    assert vars(model)["evaluate"] is own


def test_a_fit_that_raises_leaves_nothing_that_acts_or_adds_up():
    model, plain = network(), network()
    for _ in range(3):
        sampler = SWA(sample_period=2)
        broken = keras.callbacks.LambdaCallback(on_epoch_begin=break_off)
        with pytest.raises(OSError, match="gone"):
            fit(model, sampler, broken, validation_data=(X, Y))
        forgotten = weakref.ref(sampler)
        del sampler, broken
        gc.collect()
        assert forgotten() is None
    for each in (plain, model):
        fit(each, validation_data=(X, Y))
    assert everything(model) == everything(plain)
    assert model.evaluate(X, Y, verbose=0) == plain.evaluate(X, Y, verbose=0)
    fit(model, SWA(sample_period=2), PSWM(sample_period=2, in_validation=False))
    assert "evaluate" not in vars(model)


@pytest.mark.parametrize("make", KINDS)
def test_statistics_belong_to_the_averaged_weights(make):
    model, sampler = network(normalised=True), make(batches=[X[:20], X[20:]])
    fit(model, sampler, validation_data=(X, Y))
    before = everything(model)
    with sampler.averaged():
        inside = statistics(model)
        batch_statistics.reestimate(model, [X])
        for one, other in zip(inside, statistics(model), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)
    assert everything(model) == before
    # The last window of PSWA ends with the last step, so `fit` leaves statistics of the average.
    assert all(map(np.array_equal, inside, statistics(model))) == (make is KINDS[0])
    sampler.adopt()
    assert_equal(inside, statistics(model))


@pytest.mark.parametrize(("make", "cut"), [(ALL[0], 8), (ALL[1], 7), (ALL[4], 7)])
def test_an_interrupted_training_resumes_bit_for_bit(make, cut, tmp_path):
    def fit_on(model, sampler, part):
        model.fit(X[part], Y[part], BATCH, shuffle=False, verbose=0, callbacks=[sampler])

    (whole, uncut), (first, sampler), (second, resumed) = ((network(), make()) for _ in range(3))
    fit(whole, uncut)
    fit_on(first, sampler, slice(cut * BATCH))
    np.savez(tmp_path / "state.npz", **sampler.state())
    restore(second, state_of(first))
    with np.load(tmp_path / "state.npz") as state:
        resumed.restore(state)
    fit_on(second, resumed, slice(cut * BATCH, None))
    assert everything(second) == everything(whole)
    assert resumed.samples == uncut.samples
    assert_equal(resumed.average, uncut.average)


def test_memory_does_not_grow_with_the_samples():
    samplers, most = [make() for make in ALL], [0] * len(ALL)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for number, sampler in enumerate(samplers):
                held = sum(array.nbytes for name, array in sampler.state().items() if "/" in name)
                most[number] = max(most[number], held)

    model = network()
    fit(model, *samplers, Watch(), epochs=2)
    assert [sampler.samples for sampler in samplers] == [12] * len(samplers)
    size = sum(weights.nbytes for weights in weights_of(model))
    # PSWA two, PWALKS its window of three, PSWM, SWA and Lookahead one.
    assert most == [copies * size for copies in (2, 3, 1, 1, 1)]


def test_samples_are_float32_whatever_the_weights_are():
    types = ["bfloat16", "float32" if keras.backend.backend() == "jax" else "float64"]
    with_types = keras.Sequential([keras.Input((4,)), *(layers.Dense(3, dtype=t) for t in types)])
    with_types.compile("sgd", loss="mse")
    sampler = PSWA(sample_period=1, window=2)
    with_types.fit(X[:8], Y[:8], batch_size=4, verbose=0, callbacks=[sampler])
    assert [str(array.dtype) for array in sampler.average[::2]] == ["float32", types[1]]
    assert [layer.kernel.dtype for layer in with_types.layers] == types


@pytest.mark.parametrize("synchronise", [False, True])
def test_pswa_and_laperm(synchronise):
    """The last step is no synchronisation of LaPerm's, and the end of a window."""

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            permutations.append(self.model.optimizer.is_permutation())

        def on_test_end(self, logs=None):
            validated.append(self.model.optimizer.is_permutation())

    permutations, validated = [], []
    model = network(LaPerm("adam", sync_period=5))
    pswa = PSWA(sample_period=2, window=2, synchronise=synchronise)
    fit(model, pswa, Look(), validation_data=(X, Y))
    due = [step % 5 == 0 or (synchronise and step % 4 == 0) for step in range(1, 13)]
    assert permutations == due
    assert validated == [synchronise]
    assert model.optimizer.is_permutation()  # Keras synchronises when `fit` ends
    before = everything(model)
    with pswa.averaged():
        assert model.optimizer.is_permutation() == synchronise
    assert everything(model) == before


def test_what_cannot_work_is_refused_before_training():
    for options, build, message in [
        ({}, lambda: network(normalised=True), "has batch normalisation"),
        ({"synchronise": True}, network, "Only a model that LaPerm trains"),
    ]:
        model = build()
        before = everything(model)
        with pytest.raises(ValueError, match=message):
            fit(model, SWA(sample_period=2, **options))
        assert everything(model) == before
    for batches, message in [(iter([X]), "only once"), (X, "a list of batches")]:
        with pytest.raises(ValueError, match=message):
            SWA(sample_period=2, batches=batches)
    for name in ("synchronise", "in_validation"):
        with pytest.raises(ValueError, match=f"{name} is True or False, got 'no'"):
            SWA(sample_period=2, **{name: "no"})
    with pytest.raises(ValueError, match="only one average"):
        fit(network(), SWA(sample_period=2), PSWM(sample_period=2), validation_data=(X, Y))
    used = SWA(sample_period=2)
    fit(network(), used)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    other.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="another model"):
        fit(other, used)
    with pytest.raises(ValueError, match="no average yet"):
        _ = SWA(sample_period=2).average


def test_a_model_that_fit_builds():
    def unbuilt():
        model = keras.Sequential([layers.Dense(3)])
        model.compile("sgd", loss="mse")
        return model

    sampler = PSWA(sample_period=2, window=3)
    fit(unbuilt(), sampler)
    assert sampler.samples == 6
    if keras.backend.backend() == "tensorflow":  # the others have built it when they call callbacks
        with pytest.raises(ValueError, match="build it before"):
            fit(unbuilt(), Lookahead())


@several_steps_at_once
def test_a_step_that_loss_scaling_skips_puts_a_sample_off():
    """The step count stands still where a scaled gradient is not finite."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    model, spy, x = network(scaled, steps_per_execution=2), Spy(sample_period=4), X.copy()
    x[4 * BATCH] = np.inf  # the fifth step
    for _ in range(2):  # the second begins between two executions
        model.fit(x, Y, BATCH, shuffle=False, verbose=0, callbacks=[spy])
    assert int(ops.convert_to_numpy(scaled.iterations)) == 22
    assert spy.steps == [4, 9, 13, 16, 20]


# -- other weights in a model ----------------------------------------------------------------------


def trained_by_laperm(normalised=False):
    model = network(LaPerm("sgd", sync_period=1), normalised)
    model.fit(X, Y, verbose=0)
    return model


SYNCHRONISE = {"synchronise": True}


def others(model):
    return [array + 1 for array in weights_of(model)]


@pytest.mark.parametrize("raised", [None, KeyError])
def test_weights_come_and_go_with_a_with(raised):
    model = network(normalised=True)
    model.layers[0].kernel.assign(np.where(X[:4, :1] > 0, np.float32(-0.0), np.nan).repeat(5, 1))
    before, new = everything(model), others(network(normalised=True))
    with pytest.raises(raised) if raised else nullcontext(), replaced(model, new, batches=[X]):
        assert_equal(weights_of(model), new)
        if raised:
            raise raised
    assert everything(model) == before


def test_statistics_may_be_left_as_they_are():
    model = network(normalised=True)
    before, new = statistics(model), others(model)
    replace(model, new, batches=None)
    assert_equal(weights_of(model), new)
    assert_equal(statistics(model), before)


@pytest.mark.parametrize(
    ("build", "change", "options", "message"),
    [
        (network, others, SYNCHRONISE, "Only a model that LaPerm trains"),
        (network, lambda model: others(model)[:-1], {}, "shapes"),
        (network, lambda model: [w.T for w in others(model)], {}, "shapes"),
        (lambda: network(normalised=True), others, {}, "no samples"),
        (trained_by_laperm, lambda m: [w * np.nan for w in others(m)], SYNCHRONISE, "NaN"),
        (lambda: trained_by_laperm(True), others, SYNCHRONISE, "no samples"),
    ],
)
def test_nothing_is_changed_by_what_fails(build, change, options, message):
    model = build()
    before, new = everything(model), change(model)
    for put in (replace, replaced):
        with pytest.raises(ValueError, match=message), put(model, new, **options):
            pytest.fail("It must not get here.")
        assert everything(model) == before


def own_steps(optimizer, **attributes):
    """A model that takes its steps with an optimizer of another name; not on JAX."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([keras.Input((4,)), layers.Dense(3)])

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            variables = self.net.trainable_variables
            gradients = [ops.ones(v.shape) for v in variables]
            self.critic.apply(gradients, variables)
            return {"loss": ops.zeros(())}

    model = Own()
    model(X[:1])
    model.compile(loss="mse")
    model.critic = optimizer
    return model


no_own_steps_on_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX's train_step takes the state along"
)


@no_own_steps_on_jax
@pytest.mark.parametrize("given", [False, True])
def test_an_optimizer_of_another_name_counts_the_steps(given):
    optimizer = keras.optimizers.SGD(0.1) if given else LaPerm("sgd", 4)
    model = own_steps(optimizer)
    swa = SWA(sample_period=2, synchronise=not given, optimizer=optimizer if given else None)
    fit(model, swa)
    assert swa.samples == 6
    with swa.averaged():
        assert given or optimizer.is_permutation()


@no_own_steps_on_jax
def test_an_optimizer_that_takes_no_step_is_an_error():
    with pytest.raises(ValueError, match=r"rm_?s_?prop.* has counted no step .* optimizer="):
        fit(own_steps(keras.optimizers.SGD(0.1)), SWA(sample_period=2))


def test_gradients_that_are_summed_up_take_no_step_in_a_short_epoch():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=18)
    swa = SWA(sample_period=1)
    fit(network(optimizer), swa, epochs=3)
    assert swa.samples == 2


def test_a_part_of_a_multi_optimizer_synchronises_the_average():
    optimizer = LaPerm("adam", 4)
    parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(), {".*kernel": optimizer})
    swa = SWA(sample_period=2, synchronise=True)
    fit(network(keras.optimizers.MultiOptimizer(parts)), swa, epochs=2)
    assert swa.samples == 12
    assert optimizer.is_permutation()
    with swa.averaged():
        assert optimizer.is_permutation()


def test_best_weights_that_are_not_those_validated_are_named(tmp_path):
    for keep in (
        keras.callbacks.EarlyStopping(restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True),
    ):
        words = r"but .* keeps the weights .*AverageCheckpoint"
        with pytest.warns(UserWarning, match=words) as found:
            fit(network(), PSWM(sample_period=2), keep, epochs=3, validation_data=(X, Y))
        assert sum("AverageCheckpoint" in str(warning.message) for warning in found) == 1


def test_the_best_average_is_saved_and_loaded(tmp_path):
    path, swa = tmp_path / "best.keras", SWA(sample_period=2, batches=[X])
    best = AverageCheckpoint(swa, path, save_best_only=True)
    history = fit(network(normalised=True), swa, best, epochs=3, validation_data=(X, Y)).history
    loss = keras.models.load_model(path).evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(min(history["val_loss"]), rel=1e-5)
    with pytest.raises(ValueError, match="leave out save_freq"):
        AverageCheckpoint(swa, path, save_freq=2)
