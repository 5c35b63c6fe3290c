"""Networks that are synchronised whenever they are validated, compared and saved.

References:
    Qiu and Suda, NeurIPS 2020, algorithm 1: the network that counts is the synchronised one.
"""

from typing import Any

import keras

from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.training_state import nested


class SynchroniseAtEpochEnd(keras.callbacks.Callback):
    """Synchronises at the end of every epoch, before the network is validated and saved.

    Keras measures the validation data when an epoch ends; `ModelCheckpoint` and `EarlyStopping`
    save or remember the network then. Between two synchronisations that network is no permutation
    of its initial weights, and its accuracy is not that of the one that will be. With this callback
    the logs, the files and the weights that `EarlyStopping(restore_best_weights=True)` puts back
    are all of synchronised networks. It comes first in the list of callbacks.

    These synchronisations are added to those of the sync period, which runs on undisturbed. Where
    the period divides the steps of an epoch, nothing changes.

    Raises:
        ValueError: when training starts, if the optimizer is not `LaPerm`.

    Examples:
        >>> import numpy as np
        >>> x, y = np.ones((8, 4)), np.ones((8, 3))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile(LaPerm("adam", sync_period=1000), loss="mse")
        >>> best = keras.callbacks.EarlyStopping(restore_best_weights=True)
        >>> history = model.fit(
        ...     x, y, validation_data=(x, y), epochs=2, verbose=0,
        ...     callbacks=[SynchroniseAtEpochEnd(), best],
        ... )
        >>> model.optimizer.is_permutation()
        True
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look for LaPerm."""
        self._laperm()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Synchronise before the validation data are looked at."""
        self._laperm().synchronise()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Synchronise where there are no validation data."""
        self._laperm().synchronise()

    def _laperm(self) -> LaPerm:
        # Asking for the model also brings its variables up to date, with JAX.
        for optimizer in nested(self.model.optimizer):
            if isinstance(optimizer, LaPerm):
                return optimizer
        raise ValueError(f"{type(self.model.optimizer).__name__} is not LaPerm: nothing to sync.")
