"""When a training is measured, on which images, and how."""

import keras
import numpy as np
import pytest
from short_runs import SHORT

from laperm_lib.paper import datasets
from laperm_lib.paper.evaluation import accuracy, images_for, schedule


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1234])
def test_accuracy_is_measured_in_parts_and_leaves_no_image_out(count):
    """A whole test set at once takes 14 GB with resnet50: activations of every layer are kept."""
    rng = np.random.default_rng(count)
    logits = rng.normal(size=(count, 10)).astype("float32")
    classes = rng.integers(10, size=count)
    seen = []

    def model(images, training):
        assert training is False
        seen.append(len(images))
        return keras.ops.convert_to_tensor(images)

    assert accuracy(model, logits, classes) == np.mean(logits.argmax(axis=1) == classes)
    assert sum(seen) == count
    assert max(seen) <= 500


def test_logits_of_mirror_images_are_added():
    images, classes = np.random.default_rng(0).random((600, 4, 6, 1)), np.arange(600) % 2

    def model(images, training):
        """Sees class 1 where the left half is the brighter one, and is less sure of class 0."""
        left, right = images[:, :, :3].sum((1, 2, 3)), images[:, :, 3:].sum((1, 2, 3))
        return np.stack([np.full(len(images), 1.0), 3.0 * (left > right)], axis=1)

    # One of both directions is always the brighter one: 3 against 2.
    assert accuracy(model, images, classes, flip=True) == 0.5
    alone = model(images, training=False).argmax(axis=1)
    assert accuracy(model, images, classes) == (alone == classes).mean() != 0.5


def test_evaluations_are_at_synchronisations():
    settings = SHORT.replace(sync_period=40, evaluate_every=100)
    found = schedule(settings, 400, (0, 5))
    assert found == {120: 0, 125: 5, 200: 0, 205: 5, 320: 0, 325: 5, 400: 0}
    assert schedule(settings.replace(sync_period=None), 350) == {100: 0, 200: 0, 300: 0}
    for offset in (-1, 40):
        with pytest.raises(ValueError, match="does not fit a period of 40"):
            schedule(settings, 400, (offset,))
    with pytest.raises(ValueError, match="evaluate_every=1 is too short for 2000000000 steps"):
        schedule(SHORT.replace(evaluate_every=1), 2 * 10**9)


def test_images_held_out_are_those_left_out_of_training():
    images, data = images_for(SHORT.replace(held_out=200)), datasets.load("digits")
    assert [len(x) for x in (images.x_train, images.x_held_out)] == [1237, 200]
    together = np.concatenate([images.x_train, images.x_held_out]).reshape(1437, -1)
    everything = images_for(SHORT).x_train.reshape(1437, -1)
    np.testing.assert_array_equal(everything, data.x_train.reshape(1437, -1) / np.float32(255))
    np.testing.assert_array_equal(*(x[np.lexsort(x.T)] for x in (together, everything)))
    assert images.fingerprint == data.fingerprint
    with pytest.raises(ValueError, match="1437 images cannot be held out of 1437"):
        images_for(SHORT.replace(held_out=1437))
