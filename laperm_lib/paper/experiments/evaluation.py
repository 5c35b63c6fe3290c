"""When a network in training is measured, and how.

References:
    Qiu and Suda, NeurIPS 2020, section 5; the published code measures by steps, whether the network
    is synchronised then or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from laperm_lib._random import raw_bits
from laperm_lib.paper import datasets
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters

# Outside a compiled program, Keras keeps what every layer gives until the last is done: 3 GB for
# 500 images and resnet50 in float32.
_BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """Accuracy after a step.

    Args:
        step: training steps taken.
        since_sync: how many of them since the last synchronisation; 0 is a permutation of the
            initial weights, anything else is not. Always 0 for Adam alone, which never has one.
        accuracy: on all test images, 0 to 1.
        held_out: on the training images held out, 0 to 1; None if there are none.
    """

    step: int
    since_sync: int
    accuracy: float
    held_out: float | None = None


def schedule(
    settings: Hyperparameters, total_steps: int, evaluate_after: Sequence[int] = (0,)
) -> dict[int, int]:
    """The steps after which a training is evaluated.

    From every multiple of `settings.evaluate_every` on, the next synchronisation is taken, and the
    steps that lie so far behind it as `evaluate_after` says.

    Args:
        settings: the hyperparameters.
        total_steps: the steps of the whole training.
        evaluate_after: in steps, each from 0 (right after a synchronisation) to the sync period
            minus 1. Default: 0 alone.

    Returns:
        For each step, in ascending order, the steps since the last synchronisation.

    Raises:
        ValueError: if a step behind a synchronisation comes after the next one.

    Examples:
        >>> from dataclasses import replace
        >>> from laperm_lib.paper.experiments.profiles import PUBLISHED
        >>> settings = replace(PUBLISHED["conv7"], sync_period=400, evaluate_every=1000)
        >>> schedule(settings, 3000, (0, 50))
        {1200: 0, 1250: 50, 2000: 0, 2050: 50}
    """
    period = settings.sync_period or 1
    offsets = sorted(set(evaluate_after))
    if not all(0 <= offset < period for offset in offsets):
        raise ValueError(f"evaluate_after={offsets} does not fit a period of {period}.")
    steps = {}
    for multiple in range(settings.evaluate_every, total_steps + 1, settings.evaluate_every):
        synchronised = -(-multiple // period) * period
        for offset in offsets:
            if synchronised + offset <= total_steps:
                steps[synchronised + offset] = offset
    return dict(sorted(steps.items()))


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose largest logit is that of their class.

    Args:
        model: gives logits, shape (n, classes).
        x: images, shape (n, ...).
        y: classes, integers of shape (n,).

    Returns:
        A number from 0 to 1.
    """
    correct = 0
    for first in range(0, len(x), _BATCH):
        part = slice(first, first + _BATCH)
        logits = keras.ops.convert_to_numpy(model(x[part], training=False))
        correct += int((logits.argmax(axis=1) == y[part]).sum())
    return correct / len(x)


@dataclass(frozen=True)
class Images:
    """What a network is trained on and measured with, preprocessed for it.

    Args:
        x_train: training images, float32 (n, height, width, channels).
        y_train: their classes, integers (n,).
        x_held_out: training images held out, perhaps none.
        y_held_out: their classes.
        x_test: test images.
        y_test: their classes.
        fingerprint: SHA-256 of the dataset that they are from.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_held_out: np.ndarray
    y_held_out: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    fingerprint: str

    def evaluate(self, model: keras.Model, step: int, since_sync: int) -> Evaluation:
        """Measure a network."""
        held_out = None
        if len(self.x_held_out):
            held_out = accuracy(model, self.x_held_out, self.y_held_out)
        return Evaluation(step, since_sync, accuracy(model, self.x_test, self.y_test), held_out)


def images_for(settings: Hyperparameters, data_dir: str | None = None) -> Images:
    """Load the images of an experiment.

    Args:
        settings: the hyperparameters. The images held out are the same in every run.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.

    Raises:
        ValueError: if as many are to be held out as there are.
        DatasetUnavailableError: if the data cannot be had.
    """
    shape = models.spec(settings.model).input_shape if settings.dataset == "digits" else None
    data = datasets.load(settings.dataset, data_dir, shape=shape)
    x_train, x_test = models.preprocess(settings.model, data, settings.pixels)
    count = len(x_train)
    if settings.held_out >= count:
        raise ValueError(f"{settings.held_out} images cannot be held out of {count}.")
    # 64 random bits an image: ties do not happen.
    keys = raw_bits(0, "held out").random_raw(count)
    held_out = np.zeros(count, bool)
    held_out[np.argsort(keys, kind="stable")[: settings.held_out]] = True
    kept = slice(None) if settings.held_out == 0 else ~held_out
    return Images(
        x_train[kept],
        data.y_train[kept],
        x_train[held_out],
        data.y_train[held_out],
        x_test,
        data.y_test,
        data.fingerprint,
    )
