"""Training a network of the paper by SGPerm alone, beside LaPerm and Adam: settings of our own.

The records in the folder `pretrained` are made by::

    from laperm_lib.paper.studies import sgperm
    sgperm.write("pretrained")

References:
    Qiu and Suda, CoRR 2020, arXiv 2003.02570 v1-v4.
"""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from laperm_lib.paper.methods import Adam, LaPerm, SGPerm
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.records import complete
from laperm_lib.paper.settings import Data, Schedule, Settings
from laperm_lib.paper.training import run
from laperm_lib.paper.verification import publish_first

SETTINGS = Settings(
    network=PaperNetwork(model="f2"),
    data=Data(dataset="mnist", held_out=5000),
    method=SGPerm(beta1=0.999, beta2=1.0006, momentum=0.99),
    schedule=Schedule(epochs=10, batch_size=128, learning_rate=0.01),
    evaluate_every=100,
)
"""Settings for MNIST, chosen by the accuracy on training images held out, with seed 0."""

_LAPERM = SETTINGS.replace(
    method=LaPerm(sync_period=20), learning_rate=1e-3, decay=0.95, evaluate_every=100
)
BESIDE = {"sgperm_laperm": _LAPERM, "sgperm_adam": _LAPERM.replace(method=Adam())}
"""The same network from the same weights on the same batches, by LaPerm and by Adam, with the
learning rates that the paper has for F2. The sync period was chosen as the settings were, among
20, 100, 250, 500 and 1000."""


def write(folder: str | os.PathLike[str], seeds: Iterable[int] = (0, 1, 2)) -> None:
    """Train with `SETTINGS` and `BESIDE` for each seed; write the records and a network."""
    seeds = list(seeds)
    made = (run(SETTINGS, seed=seed, experiment="sgperm") for seed in seeds)
    publish_first("sgperm", made, folder)
    for name, settings in BESIDE.items():
        planned = [(settings, seed) for seed in seeds]
        complete(Path(folder, f"{name}.json"), planned, partial(run, experiment=name))
