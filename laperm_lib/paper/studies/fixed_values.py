"""What can a network learn without a new value? Permutations, signs, masks, and few values.

The same network, from the same initial values and with the same budget, trained within each set.
Rates are chosen, for each method and start, by one training on images held out; then three seeds
are trained. Records are made by::

    from laperm_lib.paper.studies import fixed_values
    fixed_values.write("pretrained/fixed_values")

References:
    Ivan and Florian, arXiv 2006.16627, on signs and masks; Qiu and Suda, NeurIPS 2020.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from laperm_lib import weight_vectors
from laperm_lib.paper.methods import Adam, LaPerm, Method, SignedLaPerm, SignFlip, Switch
from laperm_lib.paper.networks import Network
from laperm_lib.paper.records import Record, complete, load
from laperm_lib.paper.settings import Settings
from laperm_lib.paper.studies.sync_period import SETTINGS
from laperm_lib.paper.training import run

STARTS = ("he_uniform", "he_2_levels", "he_3_levels", "he_4_levels")
"""The initial values: all different, or of a few evenly spaced ones."""

_INNER = Adam(summed_loss=False)
METHODS: dict[str, Method] = {
    "Adam": _INNER,
    "permutation": LaPerm(inner=_INNER, sync_period=5),
    "permutation, latent": LaPerm(inner=_INNER, sync_period=1, latent_weights=True),
    "signs": SignFlip(inner=_INNER, sync_period=5),
    "signs, latent": SignFlip(inner=_INNER, sync_period=1, latent_weights=True),
    "masks": Switch(inner=_INNER, sync_period=5),
    "masks, latent": Switch(inner=_INNER, sync_period=1, latent_weights=True),
    "permutation and signs": SignedLaPerm(inner=_INNER, sync_period=5),
    "permutation and signs, latent": SignedLaPerm(inner=_INNER, sync_period=1, latent_weights=True),
}
"""How the network is trained, by name; with latent weights, the network is in the set after every
step."""

RATES = (5e-3, 1e-2, 2e-2)
"""What is tried."""


def settings(start: str, method: str, rate: float) -> Settings:
    """784-128-64-10 on MNIST, four epochs, 5,000 images held out."""
    return SETTINGS["dense"].replace(initializer=start, method=METHODS[method], learning_rate=rate)


def train(of: Settings, seed: int, **how: Any) -> Record:
    """Train, and measure which share of the weights changed, and the bits that tell how.

    `measured["changed"]` is from 0 to 1; `measured["bits"]`, log2 of the size of the set for each
    weight, is missing for Adam.
    """
    record = run(of, seed=seed, **how)
    before = weight_vectors.matrices(of.network.build(seed)[0])
    after = weight_vectors.matrices(record.model)
    size = sum(matrix.size for matrix in before)
    changed = sum(np.count_nonzero(a != b) for a, b in zip(before, after, strict=True)) / size
    measured: dict[str, Any] = {"changed": float(changed)}
    if of.method.projection is not None:
        measured["bits"] = of.method.projection.bound_bits(before) / size
    return replace(record, measured=record.measured | measured)


def best(records: Iterable[Record]) -> dict[tuple[Network, Method], Record]:
    """The training with the highest accuracy on the images held out, by network and method."""
    found: dict[tuple[Network, Method], Record] = {}
    for record in records:
        key = record.settings.network, record.settings.method
        if key not in found or (record.final_held_out or 0) > (found[key].final_held_out or 0):
            found[key] = record
    return found


def write(folder: str | os.PathLike[str], *, verbose: int = 1) -> None:
    """Train whatever is missing, and write each record as soon as it is there.

    "trials.json" has the trainings that rates are chosen by, without the test images' say, and
    "chosen.json" three seeds of each.
    """
    grid = [settings(s, m, rate) for s in STARTS for m in METHODS for rate in RATES]
    trials = Path(folder, "trials.json")
    one = partial(train, experiment="fixed_values")
    complete(trials, [(each, 0) for each in grid], one, verbose=verbose)
    chosen = [record.settings for record in best(load(trials)).values()]
    planned = [(each, seed) for each in chosen for seed in (1, 2, 3)]
    complete(Path(folder, "chosen.json"), planned, one, verbose=verbose)
