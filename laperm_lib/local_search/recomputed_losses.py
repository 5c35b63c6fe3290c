"""The losses of a network with one weight changed, each computed anew by Keras.

What `cached_losses` does many times faster for chains of layers, written for reading,
and for any model that gives logits.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib.batch_statistics import reestimated


class RecomputedLosses:
    """Losses on one mini-batch, where one variable of a model changes.

    Batch normalisation goes by the statistics of the mini-batch; its moving averages stay as they
    are. Dropout does nothing.

    Args:
        model: built; gives logits, shape (n, classes).
        variable: the one of its variables that changes.
        x: the mini-batch, shape (n, ...).
        y: its classes, integers of shape (n,).

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "linear")])
        >>> variable = model.layers[0].bias
        >>> losses = RecomputedLosses(model, variable, np.zeros((4, 2)), np.zeros(4, int))
        >>> round(losses.loss, 4)  # log 3
        1.0986
        >>> bool(losses.of(np.array([[0]]), np.array([[[1.0]]]))[0, 0] < losses.loss)
        True
    """

    def __init__(self, model: keras.Model, variable: Any, x: np.ndarray, y: np.ndarray) -> None:
        self._model, self._variable, self._x, self._y = model, variable, x, y
        self._weights = np.array(ops.convert_to_numpy(variable))
        self.loss = self._loss()
        """The mean loss as the weights are now."""

    def of(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The losses with other values, as `Losses.of`."""
        losses = np.empty(values.shape[:2])
        try:
            for move, alternative in np.ndindex(losses.shape):
                changed = self._weights.copy()
                changed.flat[places[move]] = values[move, alternative]
                self._variable.assign(changed)
                losses[move, alternative] = self._loss()
        finally:
            self._variable.assign(self._weights)
        return losses

    def keep(self, places: np.ndarray, values: np.ndarray) -> None:
        """Change weights, as `Losses.keep`."""
        self._weights.flat[places] = values
        self._variable.assign(self._weights)
        self.loss = self._loss()

    def _loss(self) -> float:
        with reestimated(self._model, [self._x]):
            outputs = self._model(self._x, training=False)
        logits = ops.convert_to_numpy(outputs).astype(np.float64)
        most = logits.max(axis=1)
        log_sums = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
        return float((log_sums - logits[np.arange(len(logits)), self._y]).mean())
