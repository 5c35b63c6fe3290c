"""Same capacity, sparse against dense: a comparison of networks with equally many active weights.

A sparse network that was pruned from a dense one has fewer weights than it, and one that is worse
may be so for that reason alone. SC-SDC (same capacity sparse versus dense comparison) sets a wide
sparse network beside a narrow dense one that has the same number of active weights in every layer,
the same initial distribution and the same training budget, over several seeds, and asks the
Wilcoxon signed-rank test whether they differ.

References:
    Tessera, Hooker and Rosman, "Keep the gradients flowing: using gradient flow to study sparse
    network optimization", 2021, arXiv:2102.01670.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import keras
import numpy as np

from laperm_lib import batch_statistics
from laperm_lib._arguments import check_integer
from laperm_lib.batches import Batches
from laperm_lib.callbacks import GradientFlowHistory
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.paper import datasets
from laperm_lib.paper.experiments.evaluation import accuracy
from laperm_lib.paper.experiments.fitting import fit, steps_per_execution
from laperm_lib.paper.studies.same_capacity_networks import Architecture, fill_sparsely
from laperm_lib.paper.studies.signed_rank import Comparison, wilcoxon
from laperm_lib.sparsity import keep_zeros

Capacity = Literal["dense", "sparse", "rescaled"]

OPTIMIZERS = ("sgd", "adam", "laperm")
"""SGD at a rate of 0.1, Adam at 1e-3, and LaPerm around that Adam; the rates are constant."""

_FLOW_SAMPLES = 500
_STATISTICS_SAMPLES = 5000


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One side of a comparison, and how it is trained.

    Args:
        architecture: of the dense network.
        capacity: "dense" for that network; "sparse" for the wide one with the same active weights;
            "rescaled" for this with `fill_sparsely`'s `rescaled`.
        optimizer: one of `OPTIMIZERS`.
        factor: how many times wider the sparse network is, at least 2. Default 4.
        dataset: "mnist" (the default) or "digits".
        epochs: how often the training images are gone through.
        batch_size: images per step.
        sync_period: steps between LaPerm's synchronisations.
        measure_every: steps between two measurements of gradient flow, a multiple of `sync_period`.

    Raises:
        ValueError: for anything else.
    """

    architecture: Architecture
    capacity: Capacity
    optimizer: str
    factor: int = 4
    dataset: str = "mnist"
    epochs: int = 3
    batch_size: int = 128
    sync_period: int = 50
    measure_every: int = 200

    def __post_init__(self) -> None:
        if self.capacity not in get_args(Capacity):
            raise ValueError(f"capacity is one of {get_args(Capacity)}, got {self.capacity!r}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is one of {OPTIMIZERS}, got {self.optimizer!r}.")
        check_integer("factor", self.factor, at_least=2)
        for name in ("epochs", "batch_size", "sync_period", "measure_every"):
            check_integer(name, getattr(self, name), at_least=1)
        if self.measure_every % self.sync_period:
            raise ValueError("measure_every is a multiple of sync_period.")

    def build(self, input_shape: Sequence[int], *, seed: int) -> keras.Sequential:
        """The network before training.

        Args:
            input_shape: (height, width, channels) of an image.
            seed: an integer of at least 0, for values and places of the weights.
        """
        dense = self.architecture.build(input_shape, seed=seed)
        if self.capacity == "dense":
            return dense
        wide = self.architecture.widened(self.factor).build(input_shape, seed=seed)
        fill_sparsely(wide, dense, seed=seed, rescaled=self.capacity == "rescaled")
        return wide


@dataclass(frozen=True)
class Result:
    """What came out of a trial.

    Args:
        trial: the trial.
        seed: of initial values, places of active weights, and order of images.
        accuracy: on the test images at the end, 0 to 1, with the statistics of batch normalisation
            that belong to these weights (`laperm_lib.batch_statistics`).
        active: for each kernel the weights that are not zero at the end.
        steps: when gradient flow was measured, from 0 to the end.
        norms: for each of these steps and each kernel, the 2-norm of the gradient.
        effective: likewise, at the active weights.
    """

    trial: Trial
    seed: int
    accuracy: float
    active: tuple[int, ...]
    steps: tuple[int, ...]
    norms: tuple[tuple[float, ...], ...]
    effective: tuple[tuple[float, ...], ...]

    @property
    def effective_flow(self) -> float:
        """The effective gradient flow, the mean over the measurements behind the first step."""
        return float(np.mean(self.effective[1:]))

    @property
    def plain_flow(self) -> float:
        """The same of the whole gradients."""
        return float(np.mean(self.norms[1:]))


def train(trial: Trial, *, seed: int, data_dir: str | None = None) -> Result:
    """Train one side of a comparison.

    SGD and Adam keep the pruned weights at zero (`laperm_lib.sparsity.keep_zeros`). LaPerm keeps
    their number, in every weight vector, and may move them.

    Args:
        trial: the network and its training.
        seed: an integer of at least 0.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.

    Raises:
        ValueError: for an impossible seed.
        DatasetUnavailableError: if the data cannot be had.
    """
    data = _dataset(trial.dataset, data_dir)
    x_train, x_test = (x / np.float32(255) for x in (data.x_train, data.x_test))
    model = trial.build(x_train.shape[1:], seed=seed)
    keras.utils.set_random_seed(seed % 2**32)
    optimizer: keras.optimizers.Optimizer
    if trial.optimizer == "laperm":
        optimizer = LaPerm(keras.optimizers.Adam(1e-3), trial.sync_period)
    else:
        keep_zeros(model)
        sgd = trial.optimizer == "sgd"
        optimizer = keras.optimizers.SGD(0.1) if sgd else keras.optimizers.Adam(1e-3)
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution([trial.measure_every]),
    )
    sample = slice(_FLOW_SAMPLES)
    flow = GradientFlowHistory(x_train[sample], data.y_train[sample], every=trial.measure_every)
    batches = Batches(
        x_train, data.y_train, batch_size=trial.batch_size, epochs=trial.epochs, seed=seed
    )
    fit(model, batches, [flow])
    with batch_statistics.reestimated(model, [x_train[:_STATISTICS_SAMPLES]]):
        right = accuracy(model, x_test, data.y_test)
    at_steps = [measured.layers for measured in flow.history.values()]
    return Result(
        trial,
        seed,
        accuracy=right,
        active=tuple(layer.active for layer in at_steps[-1]),
        steps=tuple(flow.history),
        norms=tuple(tuple(layer.norm for layer in kernels) for kernels in at_steps),
        effective=tuple(tuple(layer.effective for layer in kernels) for kernels in at_steps),
    )


def compare(
    trial: Trial, seeds: Iterable[int], *, data_dir: str | None = None, verbose: int = 0
) -> tuple[Comparison, list[Result], list[Result]]:
    """Train the sparse network of a trial and the dense one beside it, and compare accuracies.

    Args:
        trial: its `capacity` is that of the sparse side, "sparse" or "rescaled".
        seeds: at least one.
        data_dir: as for `train`.
        verbose: 1 shows a progress bar, 0 (the default) nothing.

    Returns:
        The `Comparison` of accuracies, sparse minus dense; the results of the sparse networks, and
        those of the dense ones.

    Raises:
        ValueError: if the trial's capacity is "dense", or there is no seed.
        DatasetUnavailableError: if the data cannot be had.
    """
    seeds = list(seeds)
    if trial.capacity == "dense" or not seeds:
        raise ValueError("Compare a trial of a sparse network, with at least one seed.")
    progress = keras.utils.Progbar(2 * len(seeds), verbose=verbose)
    sides: tuple[list[Result], list[Result]] = ([], [])
    for seed in seeds:
        for side, one in zip(sides, (trial, replace(trial, capacity="dense")), strict=True):
            side.append(train(one, seed=seed, data_dir=data_dir))
            keras.utils.clear_session()  # many models would stay in memory
            progress.add(1)
    sparse, dense = sides
    pairs = zip(sparse, dense, strict=True)
    return wilcoxon(one.accuracy - other.accuracy for one, other in pairs), sparse, dense


# Reading and checking MNIST takes a second, and a study has hundreds of short runs.
_dataset = lru_cache(maxsize=1)(datasets.load)
