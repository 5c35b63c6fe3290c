"""How a network is trained: Adam or SGD, LaPerm or a relative around them, SGPerm, RSO, averages.

A method is a value of `Settings.method`. It makes the Keras optimizer, and the callbacks that go
with it, for a training whose length and learning rate the rest of the settings give.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from laperm_lib._arguments import check_integer
from laperm_lib.callbacks import PSWA, Lookahead
from laperm_lib.callbacks.sampling import WeightSampler
from laperm_lib.local_search.moves import Kind as Move
from laperm_lib.optimizers.laperm import LaPerm as LaPermOptimizer
from laperm_lib.optimizers.projecting import ProjectingOptimizer
from laperm_lib.optimizers.sgperm import SGPerm as SGPermOptimizer
from laperm_lib.optimizers.sign_flip import SignFlip as SignFlipOptimizer
from laperm_lib.optimizers.signed_laperm import SignedLaPerm as SignedLaPermOptimizer
from laperm_lib.optimizers.switch import Switch as SwitchOptimizer
from laperm_lib.paper import fused
from laperm_lib.paper._fields import Count, Positive, Share, check_fields
from laperm_lib.sparsity import keep_zeros
from laperm_lib.synchronisation.projections import SETS, Projection
from laperm_lib.weight_vectors import Kind


@keras.saving.register_keras_serializable(package="laperm_lib")
class EpochRates(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, or a sync period, for each epoch; the last one holds from there on.

    >>> rates = EpochRates([0.1, 0.05], steps_per_epoch=10)
    >>> [round(float(rates(step)), 2) for step in (0, 9, 10, 100)]
    [0.1, 0.1, 0.05, 0.05]
    """

    def __init__(self, rates: Iterable[float], steps_per_epoch: int) -> None:
        self.rates = [float(rate) for rate in rates]
        if not self.rates:
            raise ValueError("There are no rates: give one for each epoch.")
        self.steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, at_least=1)

    def __call__(self, step: Any) -> Any:
        """The rate at a step, counted from 0."""
        epoch = keras.ops.cast(step, "int32") // self.steps_per_epoch
        epoch = keras.ops.minimum(epoch, len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates, "float32"), epoch)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"rates": self.rates, "steps_per_epoch": self.steps_per_epoch}


@keras.saving.register_keras_serializable(package="laperm_lib")
class Triangle(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 to its peak, and falls to 0 after the last step, linearly.

    >>> rates = Triangle(0.1, peak_step=2, steps=10)
    >>> [round(float(rates(step)), 4) for step in (0, 1, 2, 6, 9)]
    [0.0333, 0.0667, 0.1, 0.05, 0.0125]
    """

    def __init__(self, peak: float, peak_step: int, steps: int) -> None:
        self.peak, self.peak_step, self.steps = peak, peak_step, steps

    def __call__(self, step: Any) -> Any:
        """The rate at a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        rising = (step + 1) / (self.peak_step + 1)
        falling = (self.steps - step) / (self.steps - self.peak_step)
        return self.peak * keras.ops.maximum(keras.ops.minimum(rising, falling), 0.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"peak": self.peak, "peak_step": self.peak_step, "steps": self.steps}


@dataclass(frozen=True)
class Length:
    """The length of a training, and what else an optimizer depends on."""

    rates: EpochRates | Triangle
    epochs: int
    steps_per_epoch: int
    batch_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Method:
    """The base of all methods.

    `period` is the steps between two permutations, None for a method that does not permute;
    `permuted` are the kinds of variables that are, and `projection` is the set they stay in.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def period(self) -> int | None:
        return None

    @property
    def permuted(self) -> tuple[Kind, ...]:
        return ()

    @property
    def projection(self) -> Projection | None:
        return None

    def prepare(self, model: keras.Model) -> None:
        """Change the built model before it is compiled."""

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        raise NotImplementedError

    def callbacks(self, statistics: Sequence[np.ndarray]) -> list[WeightSampler]:
        """What goes into `fit`; `statistics` are batches to re-estimate normalisation with."""
        return []


@dataclass(frozen=True, kw_only=True)
class Adam(Method):
    """Adam.

    Args:
        summed_loss: as the published code, which sums the loss over the batch where Keras takes the
            mean; for Adam that is an epsilon of 1e-7 divided by the batch size. Default True.
        keep_zeros: keep weights that start as zero at zero. Default False.
    """

    summed_loss: bool = True
    keep_zeros: bool = False

    def prepare(self, model: keras.Model) -> None:
        if self.keep_zeros:
            keep_zeros(model)

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        epsilon = 1e-7 / length.batch_size if self.summed_loss else 1e-7
        return fused.Adam(length.rates, epsilon=epsilon)


@dataclass(frozen=True, kw_only=True)
class SGD(Method):
    """Stochastic gradient descent, perhaps with momentum and zeros that are kept."""

    momentum: Share = 0.0
    keep_zeros: bool = False

    def prepare(self, model: keras.Model) -> None:
        if self.keep_zeros:
            keep_zeros(model)

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(length.rates, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class LaPerm(Method):
    """LaPerm around an inner method.

    Args:
        sync_period: steps between synchronisations, in the first epoch.
        inner: Adam or SGD.
        last_period: the factor by which the period has grown in the last epoch, geometrically.
        permute_biases: synchronise the biases too. Default False.
        latent_weights: as for `laperm_lib.LaPerm`. Default False.

    Examples:
        >>> LaPerm(sync_period=20, inner=SGD(momentum=0.9)).permuted
        ('kernel',)
    """

    makes: ClassVar[type[ProjectingOptimizer]] = LaPermOptimizer

    sync_period: Count
    inner: Method = Adam()
    last_period: Positive = 1.0
    permute_biases: bool = False
    latent_weights: bool = False

    @property
    def period(self) -> int | None:
        return self.sync_period

    @property
    def permuted(self) -> tuple[Kind, ...]:
        return ("kernel", "bias") if self.permute_biases else ("kernel",)

    @property
    def projection(self) -> Projection:
        return self.makes.projection

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        period: Any = self.sync_period
        if self.last_period != 1:
            growth = self.last_period ** (np.arange(length.epochs) / max(1, length.epochs - 1))
            period = EpochRates(period * growth, length.steps_per_epoch)
        return self.makes(
            self.inner.optimizer(length),
            period,
            skip_bias=not self.permute_biases,
            latent_weights=self.latent_weights,
        )


@dataclass(frozen=True, kw_only=True)
class SignFlip(LaPerm):
    """`laperm_lib.SignFlip` around an inner method, with the arguments of LaPerm."""

    makes = SignFlipOptimizer


@dataclass(frozen=True, kw_only=True)
class Switch(LaPerm):
    """`laperm_lib.Switch` around an inner method, with the arguments of LaPerm."""

    makes = SwitchOptimizer


@dataclass(frozen=True, kw_only=True)
class SignedLaPerm(LaPerm):
    """`laperm_lib.SignedLaPerm` around an inner method, with the arguments of LaPerm."""

    makes = SignedLaPermOptimizer


@dataclass(frozen=True, kw_only=True)
class SGPerm(Method):
    """SGPerm, with the arguments of `laperm_lib.SGPerm`; its seed is the run's."""

    alpha0: float = 0.03
    alpha_min: float = 0.0
    beta1: float = 0.998
    lambda0: float = 0.03
    lambda_max: float = 1.0
    beta2: float = 1.001
    momentum: float = 0.9
    partition_size_min: Count = 10

    @property
    def period(self) -> int | None:
        return 1  # it permutes in every step

    @property
    def permuted(self) -> tuple[Kind, ...]:
        return ("kernel",)

    @property
    def projection(self) -> Projection:
        return SETS["permutation"]

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        return SGPermOptimizer(**arguments, momentum_learning_rate=length.rates, seed=length.seed)


@dataclass(frozen=True, kw_only=True)
class Average(Method):
    """An average of weights that training continues from.

    Args:
        around: how the network is trained between two averages.
        average: "PSWA" or "Lookahead".
        sample_period: steps between two samples of the weights.
        window: with PSWA, how many samples an average has.
        synchronise: synchronise the average before training continues from it.
    """

    around: Method
    average: Literal["PSWA", "Lookahead"]
    sample_period: Count
    window: Count = 10
    synchronise: bool = False

    @property
    def period(self) -> int | None:
        return self.around.period

    @property
    def permuted(self) -> tuple[Kind, ...]:
        return self.around.permuted

    @property
    def projection(self) -> Projection | None:
        return self.around.projection

    def prepare(self, model: keras.Model) -> None:
        self.around.prepare(model)

    def optimizer(self, length: Length) -> keras.optimizers.Optimizer:
        return self.around.optimizer(length)

    def callbacks(self, statistics: Sequence[np.ndarray]) -> list[WeightSampler]:
        how: dict[str, Any] = {"sample_period": self.sample_period, "batches": statistics}
        if self.average == "Lookahead":
            return [Lookahead(**how)]
        return [PSWA(window=self.window, synchronise=self.synchronise, **how)]


@dataclass(frozen=True, kw_only=True)
class RSO(Method):
    """RSO, whose epochs are its cycles; `laperm_lib.paper.studies.rso` runs it.

    Args:
        last_scale: the standard deviation of moves in the last cycle, as a share of the first's.
        move: "addition" or "exchange".
        together: how many moves of one weight vector are tried at once.
    """

    last_scale: Share = 0.1
    move: Move = "addition"
    together: Count = 1
