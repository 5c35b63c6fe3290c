"""Record runs: what two cores reach on MNIST and CIFAR-10 by permuting, and in which time.

Every kernel but a fixed whitening one is permuted; normalisation is free. Settings are chosen by
the accuracy on images held out, from `TRIALS`, whose records are made by::

    from laperm_lib.paper.studies import record_runs
    record_runs.write_trials("pretrained", "cifar10")

References:
    Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498 (airbench).
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.evaluation import Images
from laperm_lib.paper.methods import Adam, LaPerm
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.records import Record, complete
from laperm_lib.paper.settings import NEVER, Data, Schedule, Settings
from laperm_lib.paper.training import Watch, run

_CIFAR10 = Settings(
    network=PaperNetwork(model="conv6_64", precision="mixed_bfloat16"),
    data=Data(
        dataset="cifar10",
        augmentation=Augmentation(shift=2 / 32, flip=True, alternate=True),
        held_out=5000,
        label_smoothing=0.2,
    ),
    method=LaPerm(inner=Adam(summed_loss=False), sync_period=5),
    schedule=Schedule(epochs=8, batch_size=250, learning_rate=5e-3, peak=0.25),
    evaluate_every=NEVER,
)
_MNIST = _CIFAR10.replace(
    network=PaperNetwork(model="conv6_mnist", precision="mixed_bfloat16"),
    dataset="mnist",
    augmentation=Augmentation(rotation=10, zoom=0.1, shift=0.1),
    epochs=4,
)
_LATENT = LaPerm(inner=Adam(summed_loss=False), sync_period=1, latent_weights=True)
TRIALS: dict[str, tuple[Settings, ...]] = {
    "cifar10": (
        _CIFAR10,
        _CIFAR10.replace(method=_LATENT),
        _CIFAR10.replace(sync_period=None, learning_rate=2e-3),
    ),
    "mnist": (
        _MNIST,
        _MNIST.replace(method=_LATENT),
        _MNIST.replace(sync_period=None, learning_rate=2e-3),
    ),
}
"""What is tried, by dataset, in this order."""


class Flipped(Watch):
    """Measures the accuracy of the mean logits of an image and its mirror image, as "flipped".

    On the images held out, or on the test images if there are none.
    """

    def begin(self, images: Images, last_step: int) -> None:
        held_out = images.x_held_out, images.y_held_out
        self._images = held_out if len(held_out[0]) else (images.x_test, images.y_test)

    def measured(self) -> dict[str, Any]:
        x, y = self._images
        logits = sum(
            self.model.predict(images, batch_size=500, verbose=0) for images in (x, x[:, :, ::-1])
        )
        return {"flipped": float((logits.argmax(axis=1) == y).mean())}


def train(settings: Settings, seed: int, **how: Any) -> Record:
    """Train, and measure with mirror images too where left and right do not matter.

    With images held out, the record does not say how the test images are classified.
    """
    watches = [Flipped()] if settings.data.dataset == "cifar10" else []
    record = run(settings, seed=seed, watches=watches, **how)
    if not settings.data.held_out:
        return record
    return replace(record, final=None, final_reestimated=None)


def write_trials(folder: str | os.PathLike[str], dataset: str, *, verbose: int = 1) -> None:
    """Train what is missing of the `TRIALS`, with seed 0, and write each record at once."""
    planned = [(settings, 0) for settings in TRIALS[dataset]]
    complete(Path(folder, f"trials_{dataset}.json"), planned, train, verbose=verbose)
