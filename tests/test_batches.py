"""Order and distortion of samples are functions of the seed and the epoch, which holds them all."""

import gc
import hashlib
import weakref
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.batches import Batches, epoch_order
from laperm_lib.paper.augmentation import Augmentation, warp

AUGMENTATION = Augmentation(rotation=10, zoom=0.1, shift=0.1, flip=True)


@pytest.fixture
def augmented():
    """A function that makes augmented batches: 3 epochs of 4 steps."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (14, 6, 5, 3), dtype=np.uint8)
    y = generator.integers(0, 4, 14)

    def make(**changes):
        settings = {"batch_size": 4, "epochs": 3, "seed": 1, "augmentation": AUGMENTATION}
        return Batches(x, y, **settings | changes)

    return make


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_every_epoch_holds_every_sample_once_with_its_target(count, batch_size, epochs, seed):
    x, y = np.arange(count), 10 * np.arange(count)
    batches = Batches(x, y, batch_size=batch_size, epochs=epochs, seed=seed)
    steps = batches.steps_per_epoch
    assert len(batches) == epochs * steps
    for epoch in range(epochs):
        parts = [batches[epoch * steps + batch] for batch in range(steps)]
        inputs = np.concatenate([part[0] for part in parts])
        assert sorted(inputs) == list(range(count))
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), 10 * inputs)
        assert all(len(part[0]) == batch_size for part in parts[:-1])


def test_a_batch_does_not_depend_on_those_read_before():
    make = {"batch_size": 4, "epochs": 3, "seed": 1}
    x = np.arange(10)
    in_order = [batch[0].tolist() for batch in map(Batches(x, x, **make).__getitem__, range(9))]
    backwards = Batches(x, x, **make)
    assert [backwards[step][0].tolist() for step in range(8, -1, -1)] == in_order[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_everywhere():
    order = epoch_order(1000, seed=7, epoch=2).astype("<u4")
    digest = hashlib.sha256(order.tobytes()).hexdigest()
    assert digest[:16] == "25e17c777880596d"


def test_images_are_distorted_by_the_maps_of_their_epoch(augmented):
    batches, plain = augmented(), augmented(augmentation=None)
    for step in range(12):
        epoch, batch = divmod(step, 4)
        transforms = AUGMENTATION.transforms(14, (6, 5, 3), seed=1, epoch=epoch)
        chosen = epoch_order(14, seed=1, epoch=epoch)[4 * batch :][:4]
        x, y = batches[step]
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, warp(plain[step][0], transforms[chosen]))
        np.testing.assert_array_equal(y, plain[step][1])


@given(first_step=st.integers(0, 12))
def test_a_resumed_training_has_the_steps_that_are_left(first_step):
    x = np.random.default_rng(0).random((14, 3, 3, 1))
    make = {"batch_size": 4, "epochs": 3, "seed": 1, "augmentation": AUGMENTATION}
    whole = Batches(x, np.arange(14), **make)
    rest = Batches(x, np.arange(14), first_step=first_step, **make)
    assert len(rest) == 12 - first_step
    assert rest.steps_per_epoch == 4
    for step in range(len(rest)):
        for ours, theirs in zip(rest[step], whole[first_step + step], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_threads_do_not_change_the_batches(augmented):
    one_by_one = [augmented()[step] for step in range(12)]
    shared = augmented()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            at_once = threads.map(shared.__getitem__, range(12))
            for ours, theirs in zip(at_once, one_by_one, strict=True):
                np.testing.assert_array_equal(ours[0], theirs[0])
                np.testing.assert_array_equal(ours[1], theirs[1])


def test_fit_takes_the_batches_in_their_order(augmented):
    def model():
        flat = [keras.Input((6, 5, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
        model = keras.Sequential(flat)
        model.set_weights([np.full((90, 4), 0.01), np.zeros(4)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-4), loss=loss)
        return model

    fitted, by_hand, backwards = model(), model(), model()
    batches = augmented()
    fitted.fit(batches, epochs=1, shuffle=False, verbose=0)
    for step in range(12):
        by_hand.train_on_batch(*batches[step])
        backwards.train_on_batch(*batches[11 - step])
    ours, expected, other = (each.get_weights()[0] for each in (fitted, by_hand, backwards))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("setting", [{"workers": 2}, {"use_multiprocessing": True}])
def test_workers_of_keras_are_refused(augmented, setting):
    with pytest.raises(AttributeError):
        setattr(augmented(), *setting.popitem())


@pytest.mark.parametrize("step", [-1, 9])
def test_there_are_no_other_steps(augmented, step):
    with pytest.raises(IndexError, match="0 to 8"):
        augmented(first_step=3)[step]


@pytest.mark.parametrize(
    ("count", "targets", "arguments"),
    [
        (3, 2, {}),
        (0, 0, {}),
        (3, 3, {"batch_size": 0}),
        (3, 3, {"batch_size": 2.5}),
        (3, 3, {"epochs": 0}),
        (3, 3, {"epochs": 1.5}),
        (3, 3, {"seed": -1}),
        (3, 3, {"seed": 0.5}),
        (3, 3, {"first_step": -1}),
        (3, 3, {"first_step": 3}),
        (3, 3, {"first_step": 0.5}),
        (3, 3, {"augmentation": AUGMENTATION}),
    ],
)
def test_bad_input(count, targets, arguments):
    make = {"batch_size": 2, "epochs": 1, "seed": 0} | arguments
    with pytest.raises(ValueError, match=r"batch|epochs|seed|step|channels"):
        Batches(np.zeros(count), np.zeros(targets), **make)


def test_closed_batches_let_go_of_the_data():
    """TensorFlow remembers for ever what it has read from."""
    x, y = np.zeros((20, 3), "float32"), np.zeros((20, 1), "float32")
    batches = Batches(x, y, batch_size=4, epochs=1, seed=0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    model.fit(batches, shuffle=False, verbose=0)
    alive = weakref.ref(x)
    batches.close()
    del x
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("first_step", [0, 4])
def test_closed_batches_are_none(augmented, first_step):
    batches = augmented(first_step=first_step)
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
    for step, block in enumerate(blocks):
        np.testing.assert_array_equal(block, batches[step][0])
    assert len(blocks) == len(batches)
