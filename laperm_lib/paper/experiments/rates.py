"""Numbers that are one for each epoch, as Keras's optimizers ask for them: in every step."""

from collections.abc import Iterable
from typing import Any

import keras

from laperm_lib._arguments import check_integer


@keras.saving.register_keras_serializable(package="laperm_lib")
class EpochRates(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, or a sync period, for each epoch.

    Args:
        rates: the rates of epoch 0, 1, ...; the last one holds from then on.
        steps_per_epoch: the steps of an epoch, at least 1.

    Raises:
        ValueError: if there are no rates, or no steps.

    Examples:
        >>> rates = EpochRates([0.5, 0.25], steps_per_epoch=10)
        >>> [float(rates(step)) for step in (0, 9, 10, 99)]
        [0.5, 0.5, 0.25, 0.25]
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
