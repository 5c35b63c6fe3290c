"""The trials of record runs keep away from the test images; mirror images are measured."""

import numpy as np
import pytest

from laperm_lib.paper.evaluation import images_for
from laperm_lib.paper.records import load
from laperm_lib.paper.studies import record_runs

QUICK = record_runs.TRIALS["cifar10"][0].replace(
    model="conv6_32", precision="float32", dataset="digits", held_out=200, epochs=1
)


def test_trials_say_nothing_of_the_test_images(tmp_path, monkeypatch):
    monkeypatch.setitem(record_runs.TRIALS, "mnist", (QUICK,))
    record_runs.write_trials(tmp_path, "mnist", verbose=0)
    (record,) = load(tmp_path / "trials_mnist.json")
    assert record.final is None
    assert not record.evaluations
    assert record.final_held_out > 0.2
    assert record.is_permutation


@pytest.mark.parametrize("held_out", [0, 200])
def test_logits_of_mirror_images_are_added(held_out, monkeypatch):
    settings = QUICK.replace(held_out=held_out)
    watch, images = record_runs.Flipped(), images_for(settings)
    _x, y = (images.x_held_out, images.y_held_out) if held_out else (images.x_test, images.y_test)

    class Model:
        """Sees class 1 where the left half is the brighter one, and twice as sure class 0."""

        def predict(self, images, **how):
            left, right = images[:, :, :16].sum((1, 2, 3)), images[:, :, 16:].sum((1, 2, 3))
            return np.stack([np.full(len(images), 1.0), 3.0 * (left > right)], axis=1)

    watch.set_model(Model())
    watch.begin(images, 1)
    # One of both directions is always the brighter one: 3 against 2.
    assert watch.measured() == {"flipped": (y == 1).mean()}
