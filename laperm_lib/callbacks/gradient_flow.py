"""The gradient flow of `laperm_lib.gradient_flow` in the course of a training."""

from typing import Any

import keras

from laperm_lib._arguments import check_integer, check_number
from laperm_lib.gradient_flow import GradientFlow, effective_gradient_flow
from laperm_lib.optimizers.permuting import nested, optimizer_of, steps_taken


class GradientFlowHistory(keras.callbacks.Callback):
    """Measures effective gradient flow and gradient norms at fixed steps, on fixed samples.

    It measures before the first step, after every multiple of `every` (with `steps_per_execution`,
    as soon as Keras calls callbacks), and at the end of training, where LaPerm has synchronised, by
    `laperm_lib.gradient_flow.effective_gradient_flow`. Training is the same as without it, bit for
    bit.

    At the end of every epoch the latest means over layers go into its logs as "gradient_flow" and
    "effective_gradient_flow", for `keras.callbacks.History` and callbacks later in the list.

    Args:
        x: inputs, shape (n, ...); all samples form one batch.
        y: targets, shape (n, ...).
        every: steps between two measurements, at least 1; under LaPerm a multiple of its sync
            period, because between two synchronisations a sparse network has no zeros.
        p: of the norms, at least 1. Default 2.
        loss: as for `effective_gradient_flow`. Default: the one that the model is compiled with.
        sample_weight: as for `effective_gradient_flow`. Default: all samples count the same.

    Attributes:
        history: the `GradientFlow` of each measured step of the latest training, from 0.

    Raises:
        ValueError: for an argument outside its range; when training starts, if `every` is no
            multiple of LaPerm's sync period. And what `effective_gradient_flow` raises.

    Examples:
        >>> import numpy as np
        >>> x, y = np.ones((8, 2)), np.ones((8, 1))
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")])
        >>> model.compile("sgd", loss="mse")
        >>> flow = GradientFlowHistory(x, y, every=2)
        >>> history = model.fit(x, y, batch_size=1, verbose=0, callbacks=[flow])
        >>> list(flow.history), flow.history[8].layers[0].path
        ([0, 2, 4, 6, 8], 'd/kernel')
        >>> history.history["effective_gradient_flow"] == [flow.history[8].effective]
        True
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        every: int,
        p: float = 2,
        loss: Any = None,
        sample_weight: Any = None,
    ) -> None:
        super().__init__()
        self.history: dict[int, GradientFlow] = {}
        self._x, self._y, self._loss, self._sample_weight = x, y, loss, sample_weight
        self._every = check_integer("every", every, at_least=1)
        self._p = check_number("p", p, at_least=1)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Measure the network as it starts."""
        self._check_period()
        self.history = {}
        self._measure()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, if that is due."""
        step = steps_taken(self.model)
        if step // self._every > max(self.history) // self._every:
            self._measure()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the latest means into the logs of the epoch."""
        if logs is not None:
            latest = self.history[max(self.history)]
            logs |= {"gradient_flow": latest.norm, "effective_gradient_flow": latest.effective}

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Measure the trained network, perhaps again: `fit` may synchronise it at its end."""
        self._measure()

    def _check_period(self) -> None:
        for optimizer in nested(optimizer_of(self.model)):
            period = getattr(optimizer, "sync_period", 1)
            if not callable(period) and self._every % period:
                raise ValueError(
                    f"every={self._every} is not a multiple of the sync period {period}: between "
                    "two synchronisations a sparse network has no zeros."
                )

    def _measure(self) -> None:
        how: Any = {"sample_weight": self._sample_weight, "p": self._p}
        self.history[steps_taken(self.model)] = effective_gradient_flow(
            self.model, self._x, self._y, self._loss, **how
        )
