"""Tests of laperm_lib.paper.experiments.evaluation."""

import keras
import numpy as np
import pytest

from laperm_lib.paper.experiments.evaluation import accuracy


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
