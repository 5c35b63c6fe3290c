"""When a network in training is measured, on which images, and how.

References:
    Qiu and Suda, NeurIPS 2020, section 5; the published code measures by steps, whether the network
    is synchronised then or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from laperm_lib._random import random_order
from laperm_lib.paper import datasets
from laperm_lib.paper.networks import scale_pixels
from laperm_lib.paper.records import Evaluation
from laperm_lib.paper.settings import Settings

# Outside a compiled program, Keras keeps what every layer gives until the last is done: 3 GB for
# 500 images and resnet50 in float32.
_BATCH = 500


def schedule(
    settings: Settings, total_steps: int, evaluate_after: Sequence[int] = (0,)
) -> dict[int, int]:
    """The steps after which a training is evaluated, and how many follow a synchronisation.

    From every multiple of `settings.evaluate_every` on, the next synchronisation is taken, and the
    steps that follow it by as many as `evaluate_after` says, each below the sync period.

    >>> from laperm_lib.paper.settings import PUBLISHED
    >>> settings = PUBLISHED["conv7"].replace(sync_period=400, evaluate_every=1000)
    >>> schedule(settings, 3000, (0, 50))
    {1200: 0, 1250: 50, 2000: 0, 2050: 50}
    """
    period = settings.method.period or 1
    offsets = sorted(set(evaluate_after))
    if not all(0 <= offset < period for offset in offsets):
        raise ValueError(f"evaluate_after={offsets} does not fit a period of {period}.")
    if total_steps // settings.evaluate_every > 10**6:
        raise ValueError(
            f"evaluate_every={settings.evaluate_every} is too short for {total_steps} steps."
        )
    steps = {}
    for multiple in range(settings.evaluate_every, total_steps + 1, settings.evaluate_every):
        synchronised = -(-multiple // period) * period
        for offset in offsets:
            if synchronised + offset <= total_steps:
                steps[synchronised + offset] = offset
    return dict(sorted(steps.items()))


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray, *, flip: bool = False) -> float:
    """The share of images whose largest logit is that of their class, 0 to 1.

    With `flip`, the logits of an image and of its mirror image are added.
    """
    correct = 0
    for first in range(0, len(x), _BATCH):
        part = x[first : first + _BATCH]
        views = (part, part[:, :, ::-1]) if flip else (part,)
        logits = sum(keras.ops.convert_to_numpy(model(view, training=False)) for view in views)
        correct += int((np.argmax(logits, axis=1) == y[first : first + _BATCH]).sum())
    return correct / len(x)


@dataclass(frozen=True)
class Images:
    """What a network is trained on and measured with: float32 images, and integer classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_held_out: np.ndarray
    y_held_out: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    fingerprint: str

    def for_statistics(self, count: int) -> list[np.ndarray]:
        """The first training images in batches, to re-estimate batch normalisation with."""
        sample = self.x_train[:count]
        return [sample[first : first + _BATCH] for first in range(0, len(sample), _BATCH)]

    def to_choose_by(self) -> tuple[np.ndarray, np.ndarray]:
        """The images held out and their classes, or the test images if there are none."""
        if len(self.x_held_out):
            return self.x_held_out, self.y_held_out
        return self.x_test, self.y_test

    def evaluate(self, model: keras.Model, step: int, since_sync: int) -> Evaluation:
        """Measure a network."""
        held_out = None
        if len(self.x_held_out):
            held_out = accuracy(model, self.x_held_out, self.y_held_out)
        return Evaluation(step, since_sync, accuracy(model, self.x_test, self.y_test), held_out)


def images_for(settings: Settings, data_dir: str | None = None) -> Images:
    """Load the images of some settings; the ones held out are the same for every seed."""
    data, held_out = settings.data, settings.data.held_out
    shape = settings.network.spec.input_shape if data.dataset == "digits" else None
    loaded = datasets.load(data.dataset, data_dir, shape=shape)
    assert data.pixels is not None  # settings have put the network's
    x_train, x_test = scale_pixels(loaded, data.pixels)
    count = len(x_train)
    is_held_out = np.zeros(count, bool)
    is_held_out[random_order(count, 0, "held out")[:held_out]] = True
    kept = ~is_held_out if held_out else slice(None)
    return Images(
        x_train[kept],
        loaded.y_train[kept],
        x_train[is_held_out],
        loaded.y_train[is_held_out],
        x_test,
        loaded.y_test,
        loaded.fingerprint,
    )
