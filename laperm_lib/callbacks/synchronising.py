"""Networks that are synchronised whenever they are validated, compared or saved.

References:
    Qiu and Suda, NeurIPS 2020, algorithm 1: the network that counts is the synchronised one.
"""

from typing import Any

import keras

from laperm_lib.optimizers.projecting import projecting_of, synchronise_all


class SynchroniseAtEpochEnd(keras.callbacks.Callback):
    """Synchronises at the end of every epoch, before the network is validated and saved.

    Between two synchronisations a network is not a permutation of its initial weights. With this
    callback first in the list, validation, `ModelCheckpoint` and the weights that
    `EarlyStopping(restore_best_weights=True)` restores are all of synchronised networks.

    These synchronisations are in addition to those of the sync period; where it divides the steps
    of an epoch, nothing changes.

    Args:
        optimizer: the optimizer that trains the model, if the model has several. `LaPerm` may be
            inside of it. Default: that of the model.

    Raises:
        ValueError: when training starts, if no `LaPerm` trains the model.

    Examples:
        >>> import numpy as np
        >>> from laperm_lib import LaPerm
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

    def __init__(self, optimizer: keras.optimizers.Optimizer | None = None) -> None:
        super().__init__()
        self.optimizer = optimizer

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse a model that LaPerm does not train."""
        projecting_of(self.model, self.optimizer)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Synchronise before the validation data are looked at."""
        self._synchronise()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Synchronise where there are no validation data."""
        self._synchronise()

    def _synchronise(self) -> None:
        # Asking for `self.model` also brings its variables up to date, with JAX.
        synchronise_all(projecting_of(self.model, self.optimizer))
