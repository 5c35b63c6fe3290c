"""PSWA, PWALKS, PSWM, SWA and Lookahead against their formulas, written for reading."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from keras import layers

from laperm_lib.callbacks import PSWA, PSWM, PWALKS, SWA, Lookahead

SMALL = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", loss="mse")
    return model


def walk(model, sampler, path):
    """Show a sampler the weights of steps 1, 2, ... as `fit` would, without training.

    The weights after a step are those of `path`, plus what the sampler has moved the model by.
    Returns the weights that the model has after each step.
    """
    model.optimizer.iterations.assign(0)
    model.set_weights(path[0])
    sampler.set_model(model)
    sampler.set_params({"epochs": 1, "steps": len(path) - 1})
    sampler.on_train_begin()
    seen = []
    for step in range(1, len(path)):
        moves = zip(model.get_weights(), path[step], path[step - 1], strict=True)
        model.set_weights([weights + (new - old) for weights, new, old in moves])
        model.optimizer.iterations.assign(step)
        sampler.on_train_batch_end(step - 1)
        seen.append(model.get_weights())
    sampler.on_train_end()
    return seen


def random_path(seed, steps):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=(3, 2)), rng.normal(size=2)] for _ in range(steps + 1)]


def naive(path, period, start, update):
    """The weights that `update` leaves at each sample time, kernel and bias apart, in float64.

    `update(weights, samples)` gives the weights that training continues from.
    """
    weights, samples = list(map(np.array, path[0])), []
    for step in range(1, len(path)):
        moves = zip(weights, path[step], path[step - 1], strict=True)
        weights = [w + new - old for w, new, old in moves]
        if step > start and (step - start) % period == 0:
            samples.append([np.array(w) for w in weights])
            weights = update(weights, samples)
    return weights, samples


def mean(samples):
    return [np.mean(part, axis=0) for part in zip(*samples, strict=True)]


def assert_close(weights, expected):
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, **SMALL)


arguments = {
    "seed": st.integers(0, 1000),
    "steps": st.integers(1, 25),
    "period": st.integers(1, 5),
    "start": st.integers(0, 7),
    "window": st.integers(1, 6),
}


@hypothesis_settings(max_examples=30)
@given(**arguments)
def test_pswa_continues_from_the_mean_of_each_window(model, seed, steps, period, start, window):
    def update(weights, samples):
        return mean(samples[-window:]) if len(samples) % window == 0 else weights

    path = random_path(seed, steps)
    sampler = PSWA(sample_period=period, window=window, start=start)
    seen = walk(model, sampler, path)
    expected, samples = naive(path, period, start, update)
    assert sampler.samples == len(samples)
    assert_close(seen[-1], expected)
    full = len(samples) // window * window
    if full:
        assert_close(sampler.average, mean(samples[full - window : full]))
    else:
        with pytest.raises(ValueError, match="no average yet"):
            _ = sampler.average


@hypothesis_settings(max_examples=30)
@given(**arguments)
def test_averages_beside_the_training(model, seed, steps, period, start, window):
    """PWALKS, PSWM and SWA leave the weights to training, and average its samples."""
    path, momentum = random_path(seed, steps), (window - 1) / 6
    last, samples = naive(path, period, start, lambda weights, samples: weights)
    if not samples:
        return
    exponential = samples[0]
    for sample in samples[1:]:
        pairs = zip(exponential, sample, strict=True)
        exponential = [momentum * a + (1 - momentum) * w for a, w in pairs]
    for sampler, average in [
        (PWALKS(sample_period=period, window=window, start=start), mean(samples[-window:])),
        (PSWM(sample_period=period, momentum=momentum, start=start), exponential),
        (SWA(sample_period=period, start=start), mean(samples)),
    ]:
        assert_close(walk(model, sampler, path)[-1], last)
        assert sampler.samples == len(samples)
        assert_close(sampler.average, average)


@hypothesis_settings(max_examples=30)
@given(**arguments)
def test_lookahead_goes_a_part_of_the_way(model, seed, steps, period, start, window):
    slow_step_size = window / 6
    path = random_path(seed, steps)
    slow = [np.array(w) for w in path[0]]

    def update(fast, samples):
        slow[:] = [s + slow_step_size * (f - s) for s, f in zip(slow, fast, strict=True)]
        return list(slow)

    sampler = Lookahead(sample_period=period, slow_step_size=slow_step_size)
    seen = walk(model, sampler, path)
    expected, samples = naive(path, period, 0, update)
    assert_close(seen[-1], expected)
    assert_close(sampler.average, slow)
    assert sampler.samples == len(samples)


def test_the_mean_of_one_sample_is_itself(model):
    path = random_path(0, 7)
    seen = walk(model, PSWA(sample_period=2, window=1), path)
    unaveraged = walk(model, SWA(sample_period=100), path)
    for one, other in zip(seen, unaveraged, strict=True):
        assert all(map(np.array_equal, one, other))


def test_many_samples_do_not_wear_the_running_mean_out(model):
    """300 samples of one place, far from zero: the mean stays there."""
    weights = [np.full((3, 2), 1000.1, "float32"), np.full(2, -1000.1, "float32")]
    swa = SWA(sample_period=1)
    walk(model, swa, [weights] * 301)
    for average, one in zip(swa.average, weights, strict=True):
        np.testing.assert_array_equal(average, one)


def test_pswm_after_every_step_is_the_average_of_keras():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype("float32"), rng.normal(size=(40, 2)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8), loss="mse")
    pswm = PSWM(sample_period=1, momentum=0.8)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[pswm])
    # When `fit` ends, Keras puts its average into the model.
    assert_close(pswm.average, model.get_weights())


def test_impossible_arguments():
    for kind, message, arguments in [
        (PSWA, "window is an integer of at least 1, got 0", {"window": 0}),
        (PWALKS, "window is an integer", {"window": 1.5}),
        (PSWM, "momentum is a number at least 0 and below 1", {"momentum": 1}),
        (Lookahead, "slow_step_size is a number above 0", {"slow_step_size": 0}),
        (SWA, "sample_period is an integer of at least 1", {"sample_period": 0}),
        (SWA, "start is an integer of at least 0", {"start": -1}),
    ]:
        with pytest.raises(ValueError, match=message):
            kind(**{"sample_period": 1} | arguments)
