"""Order and distortion of samples depend on seed and epoch alone; reading ahead is exact."""

import gc
import hashlib
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import build_model

from laperm_lib.batches import Batches, epoch_order, read_ahead

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (14, 6, 6, 2), dtype=np.uint8), RNG.integers(0, 3, 14)


class Brighten:
    """An augmentation of one's own: adds a number to each image."""

    def transforms(self, count, shape, *, seed, epoch):
        if len(shape) != 3:
            raise ValueError(f"Images have channels, got {shape}.")
        return np.random.default_rng((seed, epoch)).random(count, np.float32)

    def apply(self, images, transforms):
        return images + transforms[:, None, None, None]


def make_batches(x=X, y=Y, **changes):
    """3 epochs of 4 steps, the last of two samples."""
    settings = {"batch_size": 4, "epochs": 3, "seed": 1, "augmentation": Brighten()}
    return Batches(x, y, **settings | changes)


def assert_same(some, more):
    for ours, theirs in zip(some, more, strict=True):
        ours = keras.ops.convert_to_numpy(ours)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_order_is_the_same_everywhere_and_another_for_each_seed_and_epoch():
    order = epoch_order(1000, seed=7, epoch=2).astype("<u4")
    digest = hashlib.sha256(order.tobytes()).hexdigest()
    assert digest[:16] == "25e17c777880596d"
    orders = {tuple(epoch_order(50, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("first_step", [0, 1, 5, 12])
def test_images_are_distorted_as_their_epoch_says_in_resumed_trainings_too(first_step):
    batches = make_batches(first_step=first_step)
    assert (len(batches), batches.steps_per_epoch) == (12 - first_step, 4)
    for step in range(11, first_step - 1, -1):  # a batch does not depend on those read before
        epoch, batch = divmod(step, 4)
        transforms = Brighten().transforms(14, (6, 6, 2), seed=1, epoch=epoch)
        chosen = epoch_order(14, seed=1, epoch=epoch)[4 * batch :][:4]
        expected = Brighten().apply(X[chosen], transforms[chosen]), Y[chosen]
        assert_same(batches[step - first_step], expected)


def test_threads_do_not_change_the_batches():
    one_by_one, shared = [make_batches()[step] for step in range(12)], make_batches()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            together = threads.map(shared.__getitem__, range(12))
            for ours, theirs in zip(together, one_by_one, strict=True):
                assert_same(ours, theirs)


def test_fit_takes_the_batches_in_their_order():
    batches = make_batches(X / np.float32(255))
    fitted, by_hand, backwards = models = [build_model() for _ in range(3)]
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    fitted.fit(batches, epochs=1, shuffle=False, verbose=0)
    for step in range(12):
        by_hand.train_on_batch(*batches[step])
        backwards.train_on_batch(*batches[11 - step])
    ours, expected, other = (model.get_weights()[-2] for model in models)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("setting", [{"workers": 2}, {"use_multiprocessing": True}])
def test_workers_of_keras_are_refused(setting):
    with pytest.raises(AttributeError):
        setattr(make_batches(), *setting.popitem())


def test_bad_input():
    arguments = {"batch_size": 2, "epochs": 1, "seed": 0}
    for x, y in [(3, 2), (0, 0)]:
        with pytest.raises(ValueError, match="make no batches"):
            Batches(np.zeros(x), np.zeros(y), **arguments)
    for name, words, *values in [
        ("batch_size", "batch_size", 0, 2.5),
        ("epochs", "epochs", 0, 1.5),
        ("seed", "seed", -1, 0.5),
        ("first_step", "first_step", -1, 3, 0.5),
        ("augmentation", "channels", Brighten()),
        ("drop_remainder", "True or False", "no"),
    ]:
        for value in values:
            with pytest.raises(ValueError, match=words):
                Batches(np.zeros(3), np.zeros(3), **arguments | {name: value})


@pytest.mark.parametrize("first_step", [0, 4])
def test_there_are_no_other_steps_and_none_once_closed(first_step):
    batches = make_batches(first_step=first_step)
    for step in (-1, 12 - first_step):
        with pytest.raises(IndexError, match=f"0 to {11 - first_step}"):
            batches[step]
    batches.close()
    assert len(batches) == 0
    assert list(batches.blocks(2)) == []
    with pytest.raises(IndexError):
        batches[0]


@pytest.mark.parametrize(("samples", "steps"), [(8, 2), (9, 2), (11, 2), (12, 3), (3, 1), (4, 1)])
def test_what_does_not_fill_a_batch_can_be_left_out(samples, steps):
    x = np.arange(samples)
    batches = Batches(x, x, batch_size=4, epochs=2, seed=0, drop_remainder=True)
    assert (batches.steps_per_epoch, len(batches)) == (steps, 2 * steps)
    assert {len(batches[step][0]) for step in range(len(batches))} == {min(4, samples)}
    for epoch in (0, 1):
        given = [batches[epoch * steps + step][0] for step in range(steps)]
        order = epoch_order(samples, seed=0, epoch=epoch)
        np.testing.assert_array_equal(np.concatenate(given), order[: 4 * steps])
    blocks = [block for x, _ in batches.blocks(2) for block in x]
    assert_same(blocks, [batches[step][0] for step in range(len(batches))])


# -- read ahead ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    batch_size=st.integers(1, 16),
    first_step=st.integers(0, 2),
    augmentation=st.sampled_from([None, Brighten()]),
    dtype=st.sampled_from(["uint8", "float32", "float64"]),
)
def test_batches_read_ahead_are_the_same(dtype, **how):
    """Also where an epoch, or a block, ends with a smaller batch, or with less than a block."""
    batches = make_batches(X.astype(dtype), Y.astype("int32"), epochs=7, **how)
    ahead = read_ahead(batches)
    assert len(ahead) == len(batches)
    for element, step in zip(ahead, range(len(batches)), strict=True):
        assert_same(element, batches[step])


def test_none_left_to_read_ahead_is_an_error():
    with pytest.raises(ValueError, match="no steps are left"):
        read_ahead(make_batches(first_step=12))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's threads")
def test_no_thread_of_autotune_keeps_fit_waiting():
    assert read_ahead(make_batches()).options().autotune.enabled is False


class StopAfter(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 4


LEAVING = """
import time
import numpy as np
from laperm_lib.batches import Batches, read_ahead

class Slow:
    def transforms(self, count, shape, *, seed, epoch):
        return np.zeros(count)

    def apply(self, images, transforms):
        time.sleep(0.3)
        return images

def leave():
    x = np.ones((400, 1))
    cycle = [iter(read_ahead(Batches(x, x, batch_size=1, epochs=9, seed=0, augmentation=Slow())))]
    cycle.append(cycle)  # as Keras's fit leaves it
    next(cycle[0])

leave()
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's threads")
def test_a_program_ends_while_batches_are_read_ahead():
    subprocess.run([sys.executable, "-c", LEAVING], check=True, timeout=60)


@pytest.mark.parametrize("read", [read_ahead, lambda batches: batches])
@pytest.mark.parametrize("callbacks", [[StopAfter()], []], ids=["stopped", "whole"])
def test_closed_batches_let_go_of_the_data(read, callbacks):
    """TensorFlow remembers for ever what it has read from."""
    x = X.astype("float32")
    alive = weakref.ref(x)
    batches = Batches(x, Y, batch_size=1, epochs=2, seed=0)
    model = build_model()
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.fit(read(batches), epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    batches.close()
    del x
    gc.collect()
    assert alive() is None
