"""A network whose weights share one value, and that is right on 94 of 100 digits all the same.

F1 and F2 are held back by having nothing negative: neither a pixel nor a weight is, so no rectifier
has anything to cut off, and each is a linear map. Here the mean training image is subtracted from
the pixels, and one hidden layer is wide: 784-800-10, without biases. The settings are the best ones
that the search "deep" of `laperm_lib.paper.studies.shared_value_search` has found, rounded, with a sync
period that stays what it is. The records in the folder `pretrained` are made by::

    python -c "from laperm_lib.paper.studies import one_value; one_value.write('pretrained')"

and the first network is `laperm_lib.paper.load_pretrained("one_value")`.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5 (F1 and F2).
"""

import os
from collections.abc import Iterable

from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.publishing import publish_first
from laperm_lib.paper.experiments.training import run
from laperm_lib.paper.manifest import Entry

SETTINGS = Hyperparameters(
    model="mlp",
    dataset="mnist",
    epochs=12,
    sync_period=5,
    batch_size=256,
    learning_rate=0.23,
    decay=0.856,
    shared_value=0.13,
    keep=(0.15, 0.36),
    held_out=5000,
    evaluate_every=215,
)
"""Settings for MNIST. An epoch has 215 steps."""


def write(folder: str | os.PathLike[str], seeds: Iterable[int] = range(10)) -> Entry:
    """Train with `SETTINGS`, once for each seed; write what came out.

    Args:
        folder: where to put "one_value.json", to be read by `laperm_lib.paper.experiments.load`, and the
            network of the first seed, as `laperm_lib.paper.experiments.publishing.publish` does.
        seeds: the seeds, at least one. Default: 0 to 9.

    Returns:
        The entry of the folder's manifest.

    Raises:
        ValueError: if there are no seeds, or one is impossible.
        DatasetUnavailableError: if the data cannot be had.
    """
    return publish_first("one_value", (run(SETTINGS, seed=seed) for seed in seeds), folder)
