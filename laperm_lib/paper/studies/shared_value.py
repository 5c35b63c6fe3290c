"""Networks whose weights share one value: what decides how well permuting trains them.

The paper's F1 and F2 have weights of one value and of zero, and the published settings do not give
the published accuracies. A `Trial` is such a network with all that could matter, `train` measures
it. `laperm_lib.paper.studies.shared_value_search` looks for the best.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5.
"""

from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from laperm_lib import sparsity, weight_vectors
from laperm_lib.batches import Batches
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.paper import datasets
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments.evaluation import accuracy
from laperm_lib.paper.experiments.fitting import fit, steps_per_execution
from laperm_lib.paper.experiments.rates import EpochRates

HELD_OUT = 10_000
"""The last so many training images choose between trials; they are not trained on then."""


@keras.saving.register_keras_serializable(package="laperm_lib")
class WholeDense(layers.Dense):
    """A dense layer whose kernel is one weight vector: a weight may move to another neuron."""


weight_vectors.register(
    WholeDense,
    {"kernel": weight_vectors.Axes(()), "bias": weight_vectors.Axes((), "bias")},
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network of dense layers, its one value, and how it is trained. The default is F1.

    Args:
        hidden: the neurons of each hidden layer.
        keep: for each layer the probability that a weight has the value and not zero.
        value: the value.
        bias: biases, which start at zero and are the inner optimizer's.
        centred: the mean training image is subtracted from the pixels, which are 0 to 1 otherwise.
            Without it, neither an input nor a weight is negative, no rectifier has anything to cut
            off, and a network of any depth is linear.
        whole: a kernel is one weight vector, not one for each neuron.
        l2: the factor of the L2 penalty on hidden kernels.
        batch_size: images per step.
        epochs: how often the training images are gone through.
        learning_rate: Adam's, in the first epoch.
        last_rate: Adam's in the last epoch, as a share of the first; it falls by one factor.
        sync_period: steps between synchronisations, in the first epoch.
        last_period: the period in the last epoch, as a multiple of the first.
        summed: whether the loss is the sum over the batch, as published, or the mean. Adam's steps
            depend on the difference through its epsilon alone.

    Examples:
        >>> Trial().hidden, Trial(hidden=(128, 64), keep=(0.1, 0.1, 0.3)).epochs
        ((), 10)
    """

    hidden: tuple[int, ...] = ()
    keep: tuple[float, ...] = (0.6,)
    value: float = 0.08
    bias: bool = False
    centred: bool = False
    whole: bool = False
    l2: float = 0.0
    batch_size: int = 128
    epochs: int = 10
    learning_rate: float = 1e-3
    last_rate: float = 0.95**9
    sync_period: int = 250
    last_period: float = 1.0
    summed: bool = True

    def __post_init__(self) -> None:
        if len(self.keep) != len(self.hidden) + 1:
            raise ValueError(f"{len(self.keep)} probabilities for {len(self.hidden) + 1} layers.")
        if self.epochs < 2 or self.batch_size < 1 or self.sync_period < 1:
            raise ValueError("A trial has 2 epochs or more, and batches and periods of 1 or more.")

    def build(self, seed: int) -> keras.Sequential:
        """The network before training.

        Args:
            seed: for the mask.
        """
        dense = WholeDense if self.whole else layers.Dense
        hidden = {"activation": "relu", "kernel_regularizer": keras.regularizers.L2(self.l2)}
        model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
        for units in self.hidden:
            model.add(dense(units, use_bias=self.bias, **hidden))
        model.add(dense(10, use_bias=self.bias))
        sparsity.agnosticize(model, self.value, self.keep, seed=seed)
        return model

    def rates(self) -> list[float]:
        """The learning rate of each epoch."""
        falls = self.last_rate ** (np.arange(self.epochs) / (self.epochs - 1))
        return [float(rate) for rate in self.learning_rate * falls]

    def periods(self) -> list[float]:
        """The sync period of each epoch."""
        grows = self.last_period ** (np.arange(self.epochs) / (self.epochs - 1))
        return [float(period) for period in self.sync_period * grows]


@dataclass(frozen=True)
class Result:
    """What came out of a trial.

    Args:
        trial: the trial.
        seed: the seed of mask and order of images.
        held_out: accuracy of the synchronised network on the images held out, 0 to 1; None if it
            was trained on all.
        test: on the test images, 0 to 1; None if it was not tested, as in a search.
        is_permutation: whether the network is bitwise a permutation of its start.
    """

    trial: Trial
    seed: int
    held_out: float | None
    test: float | None
    is_permutation: bool


def train(
    trial: Trial,
    *,
    seed: int,
    hold_out: bool,
    dataset: str = "mnist",
    data_dir: str | None = None,
) -> Result:
    """Train a network whose weights share one value by LaPerm.

    Args:
        trial: the network and its training.
        seed: for the mask and the order of the images.
        hold_out: True measures on training images held out, False trains on all of them and
            measures on the test images.
        dataset: "mnist" (the default) or "digits".
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.

    Raises:
        DatasetUnavailableError: if the data cannot be had.
    """
    data = datasets.load(dataset, data_dir, shape=(28, 28, 1) if dataset == "digits" else None)
    count = min(HELD_OUT, len(data.x_train) // 4)
    x_train, x_test = models.preprocess("f1", data)
    y_train, y_test = data.y_train, data.y_test
    if hold_out:
        x_test, y_test = x_train[-count:], y_train[-count:]
        x_train, y_train = x_train[:-count], y_train[:-count]
    if trial.centred:
        mean = x_train.mean(axis=0)
        x_train, x_test = x_train - mean, x_test - mean
    steps = -(-len(x_train) // trial.batch_size)
    model = trial.build(seed)
    rates = EpochRates(trial.rates(), steps)
    # Of the mean: as for the sum, once epsilon is divided as the gradient is.
    epsilon = 1e-7 / trial.batch_size if trial.summed else 1e-7
    optimizer = LaPerm(
        keras.optimizers.Adam(rates, epsilon=epsilon), EpochRates(trial.periods(), steps)
    )
    keras.utils.set_random_seed(seed % 2**32)
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution(),
    )
    batches = Batches(x_train, y_train, batch_size=trial.batch_size, epochs=trial.epochs, seed=seed)
    fit(model, batches)
    right = accuracy(model, x_test, y_test)
    return Result(
        trial,
        seed,
        held_out=right if hold_out else None,
        test=None if hold_out else right,
        is_permutation=optimizer.is_permutation(),
    )


def to_json(result: Result) -> dict[str, Any]:
    """A result as JSON holds it."""
    return asdict(result)


def from_json(values: dict[str, Any]) -> Result:
    """Undo `to_json`."""
    trial = dict(values["trial"])
    trial |= {"hidden": tuple(trial["hidden"]), "keep": tuple(trial["keep"])}
    return Result(**{**values, "trial": Trial(**trial)})
