"""Batches as `fit` reads them: the same, bit for bit and in their order."""

import gc
import weakref

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_network import BATCH, X, Y, build_model

from laperm_lib import LaPerm
from laperm_lib.batches import Batches
from laperm_lib.input_pipeline import read_ahead
from laperm_lib.paper.augmentation import Augmentation

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def make_batches(**changes):
    return Batches(X, Y, **{"batch_size": BATCH, "epochs": 3, "seed": 1} | changes)


def assert_same(read, batches):
    elements = list(read)
    assert len(elements) == len(read) == len(batches)
    for element, expected in zip(
        elements, map(batches.__getitem__, range(len(batches))), strict=True
    ):
        for ours, theirs in zip(element, expected, strict=True):
            ours = keras.ops.convert_to_numpy(ours)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@given(batch_size=st.integers(1, 100), first_step=st.integers(0, 2))
def test_they_are_the_batches_in_their_order(batch_size, first_step):
    """Also where an epoch, or a block, ends with a smaller batch, or with less than a block."""
    batches = make_batches(batch_size=batch_size, first_step=first_step)
    assert_same(read_ahead(batches), batches)


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="no steps are left"):
        read_ahead(make_batches(first_step=27))


def test_distorted_images_are_the_same():
    augmentation = Augmentation(rotation=10, zoom=0.1, shift=0.1, flip=True)
    batches = Batches(
        X[..., :1], Y, batch_size=7, epochs=4, seed=0, augmentation=augmentation, first_step=5
    )
    assert_same(read_ahead(batches), batches)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_the_types_are_kept(dtype):
    images = (10 * np.abs(X)).astype(dtype)
    batches = Batches(images, Y.astype("int32"), batch_size=40, epochs=1, seed=0)
    assert_same(read_ahead(batches), batches)


def test_training_is_the_same_bit_for_bit():
    weights = []
    for read in (lambda batches: batches, read_ahead):
        model = build_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(LaPerm("adam", sync_period=4), loss=loss)
        model.fit(read(make_batches(batch_size=8)), epochs=1, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="about TensorFlow's threads")
def test_no_thread_of_autotune_keeps_fit_waiting():
    assert read_ahead(make_batches()).options().autotune.enabled is False


def test_the_data_are_let_go_of():
    """TensorFlow keeps the function that the batches came from, hence they are closed."""
    x = X.copy()
    kept = weakref.ref(x)
    batches = Batches(x, Y, batch_size=BATCH, epochs=2, seed=0)
    for _ in read_ahead(batches):
        pass
    batches.close()
    del x
    gc.collect()
    assert kept() is None


class StopAfter(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 4


def test_a_training_that_is_stopped_lets_go_of_them_too():
    x = X.copy()
    kept = weakref.ref(x)
    batches = Batches(x, Y, batch_size=1, epochs=50, seed=0)
    model = build_model()
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.fit(read_ahead(batches), epochs=1, shuffle=False, verbose=0, callbacks=[StopAfter()])
    batches.close()
    del x
    gc.collect()
    assert kept() is None
