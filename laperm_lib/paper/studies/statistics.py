"""Where a network's statistics of batch normalisation come from, and what each origin costs.

Training leaves moving averages that were collected on augmented images with dropout active; the
test images are neither augmented nor dropped out.
"""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import keras

from laperm_lib import batch_statistics, files
from laperm_lib.batches import Batches
from laperm_lib.paper import manifest, pretrained, records
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.environment import environment
from laperm_lib.paper.evaluation import Images, accuracy, images_for

# After so many batches of a momentum of 0.99 the statistics from before count for 0.2 %.
_FOLLOWED_BATCHES = 600
_SAMPLES = 5000


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of one network on the test images, 0 to 1, by the origin of its statistics."""

    left: float  # as training left them
    plain: float  # of training images as they are, without dropout
    plain_dropout: float  # of the same, with dropout
    distorted: float  # of augmented training images, without dropout
    distorted_dropout: float  # of the same, with dropout, as in training
    environment: dict[str, str] = field(default_factory=dict)


def measure(
    model: keras.Model,
    images: Images,
    augmentation: Augmentation,
    *,
    batch_size: int = 50,
    verbose: int = 0,
) -> Accuracies:
    """Evaluate a network with statistics of each origin, and give it its own back."""
    x, y = images.x_train[:_SAMPLES], images.y_train[:_SAMPLES]
    found = {"left": accuracy(model, images.x_test, images.y_test)}
    for kind, distortions in (("plain", None), ("distorted", augmentation)):
        batches = Batches(
            x,
            y,
            batch_size=batch_size,
            epochs=-(-_FOLLOWED_BATCHES * batch_size // len(x)),
            seed=0,
            augmentation=distortions,
        )
        epoch = [batches[step] for step in range(batches.steps_per_epoch)]
        with batch_statistics.reestimated(model, epoch) as layers:
            if not layers:
                raise ValueError(f"'{model.name}' has no batch normalisation.")
            found[kind] = accuracy(model, images.x_test, images.y_test)
            progress = keras.utils.Progbar(len(batches), verbose=verbose)
            for step in range(len(batches)):
                model(batches[step][0], training=True)
                progress.update(step + 1)
            found[f"{kind}_dropout"] = accuracy(model, images.x_test, images.y_test)
    return Accuracies(**found, environment=environment())


def write(
    name: str, *, data_dir: str | None = None, folder: Path | None = None, verbose: int = 1
) -> Path:
    """Measure a network that comes with the project, and write "statistics/NAME.json"."""
    folder = folder or manifest.default_folder()
    record = records.load_one(folder / f"{name}.json")
    augmentation = record.settings.data.augmentation
    if augmentation is None:
        raise ValueError(f"{name} was not trained on augmented images.")
    images = images_for(record.settings, data_dir)
    model = pretrained.load_pretrained(folder / f"{name}{pretrained.SUFFIX}")
    size = record.settings.schedule.batch_size
    found = measure(model, images, augmentation, batch_size=size, verbose=verbose)
    path = folder / "statistics" / f"{name}.json"
    files.write_json(path, records.to_json(found))
    return path


def load(path: str | os.PathLike[str]) -> Accuracies:
    """Read what `write` has written."""
    parse = partial(records.from_json, kind=Accuracies)
    return files.read_json(path, parse, holds="accuracies by statistics")
