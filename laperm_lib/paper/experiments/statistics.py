"""Where a trained network's statistics of batch normalisation come from, and what that costs it.

Training leaves moving averages of what the layers saw: distorted images, and dropout. On the test
images there is neither. `measure` evaluates one network, no weight of it touched, with statistics
of all four kinds. The records in the folder `pretrained/statistics` are made by::

    from laperm_lib.paper.experiments import statistics
    statistics.write("conv2-seed0-7b5760fc")

References:
    Li et al., "Understanding the Disharmony between Dropout and Batch Normalization by Variance
    Shift", CVPR 2019 (dropout); Qiu and Suda, NeurIPS 2020, section 5.2 (the network).
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from laperm_lib import batch_statistics, files
from laperm_lib.batches import Batches
from laperm_lib.paper import manifest, pretrained
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.experiments import records
from laperm_lib.paper.experiments.environment import environment
from laperm_lib.paper.experiments.evaluation import Images, accuracy, images_for

# Behind so many batches of a momentum of 0.99 the statistics from before count for 0.2 %.
_FOLLOWED_BATCHES = 600


@dataclass(frozen=True)
class Accuracies:
    """The accuracy of one network on the test images, 0 to 1, by its statistics.

    Args:
        left: as training has left them.
        plain: of training images as they are, without dropout, as at inference.
        plain_dropout: of the same images, with dropout, as in training.
        distorted: of the images as training distorts them, without dropout.
        distorted_dropout: of such images, with dropout: what training would leave if it went on
            with these weights.
    """

    left: float
    plain: float
    plain_dropout: float
    distorted: float
    distorted_dropout: float


def measure(
    model: keras.Model,
    images: Images,
    augmentation: Augmentation,
    *,
    samples: int = 5000,
    batch_size: int = 50,
    seed: int = 0,
    verbose: int = 0,
) -> Accuracies:
    """Evaluate a network with statistics of different origin, and give it its own back.

    Args:
        model: built, with batch normalisation.
        images: the data, preprocessed for it.
        augmentation: how training distorted the images.
        samples: the first so many training images give the statistics. Default 5000.
        batch_size: images in a batch; with dropout the moving averages follow batches of this size.
            Default 50.
        seed: of the order and the distortions. Default 0.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.

    Raises:
        ValueError: if the model has no batch normalisation, or as
            `laperm_lib.batch_statistics.reestimate`.

    Examples:
        >>> import numpy as np
        >>> from keras import layers
        >>> x = np.random.default_rng(0).normal(size=(20, 8, 8, 1)).astype("float32")
        >>> y = np.arange(20) % 2
        >>> images = Images(x, y, x[:0], y[:0], x, y, fingerprint="")
        >>> parts = [layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *parts])
        >>> found = measure(model, images, Augmentation(flip=True), batch_size=20)
        >>> 0 <= found.distorted_dropout <= 1
        True
    """

    def right() -> float:
        return accuracy(model, images.x_test, images.y_test)

    x, y = images.x_train[:samples], images.y_train[:samples]
    found = {"left": right()}
    for kind, distortions in (("plain", None), ("distorted", augmentation)):
        batches = Batches(
            x,
            y,
            batch_size=batch_size,
            epochs=-(-_FOLLOWED_BATCHES * batch_size // len(x)),
            seed=seed,
            augmentation=distortions,
        )
        epoch = [batches[step] for step in range(batches.steps_per_epoch)]
        with batch_statistics.reestimated(model, epoch) as layers:
            if not layers:
                raise ValueError(f"'{model.name}' has no batch normalisation.")
            found[kind] = right()
            progress = keras.utils.Progbar(len(batches), verbose=verbose)
            for step in range(len(batches)):
                model(batches[step][0], training=True)
                progress.update(step + 1)
            found[f"{kind}_dropout"] = right()
    return Accuracies(**found)


def write(
    name: str, *, data_dir: str | None = None, folder: Path | None = None, verbose: int = 1
) -> Path:
    """Measure a network that comes with the project, and keep what was found.

    Args:
        name: such as "conv2-seed0-7b5760fc".
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.
        folder: of the shipped networks. Default: `laperm_lib.paper.manifest.default_folder`.
        verbose: as for `measure`, but 1 by default.

    Returns:
        The file written.

    Raises:
        LaPermError: if there is no record of that name.
        WeightFileError: as `laperm_lib.paper.load_pretrained`.
        DatasetUnavailableError: if the data cannot be had.
        ValueError: as `measure`, or if the network was trained on images as they are.
    """
    folder = folder or manifest.default_folder()
    record = records.load_one(folder / f"{name}.json")
    settings = record.hyperparameters
    if settings.augmentation is None:
        raise ValueError(f"{name} was not trained on distorted images.")
    images = images_for(settings, data_dir)
    model = pretrained.load_pretrained(folder / f"{name}{pretrained.SUFFIX}")
    found = measure(
        model, images, settings.augmentation, batch_size=settings.batch_size, verbose=verbose
    )
    path = folder / "statistics" / f"{name}.json"
    files.write_json(path, asdict(found) | {"environment": environment()})
    return path


def load(path: str | os.PathLike[str]) -> Accuracies:
    """What `write` has kept.

    Raises:
        LaPermError: if the file is not one of it.
    """

    def parse(content: dict[str, float]) -> Accuracies:
        return Accuracies(
            **{name: value for name, value in content.items() if name != "environment"}
        )

    return files.read_json(path, parse, holds="accuracies by statistics")
