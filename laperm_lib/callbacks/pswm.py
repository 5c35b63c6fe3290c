"""PSWM: an exponential average over samples.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774.
"""

from typing import Any

from laperm_lib._arguments import check_number
from laperm_lib.callbacks.sampling import Weights, WeightSampler, move


class PSWM(WeightSampler):
    r"""Periodically sampled weight momentum: an exponential average over samples.

    With the samples :math:`w_1, w_2, \dots` and the momentum :math:`\mu`,

    .. math:: \bar w_1 = w_1, \qquad \bar w_n = \mu \bar w_{n-1} + (1 - \mu) w_n .

    It is kept beside the training, which does not depend on it. Takes one copy of the weights on
    the host. With `sample_period=1` it is the average of Keras's `use_ema=True`.

    Args:
        sample_period: steps between two samples, at least 1.
        momentum: :math:`\mu`, 0 (the last sample) up to below 1. Default 0.9.
        start: the steps before sampling begins. Default 0.
        **options: `batches`, `synchronise` and `in_validation`, as for
            `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: as `laperm_lib.callbacks.sampling.WeightSampler`, and for a `momentum` outside
            of its range.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("adam", loss="mse")
        >>> pswm = PSWM(sample_period=2, momentum=0.5)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pswm])
        >>> pswm.adopt()  # the model is the average now

    References:
        Tripathi et al., arXiv:1905.05774.
    """

    def __init__(
        self, *, sample_period: int, momentum: float = 0.9, start: int = 0, **options: Any
    ) -> None:
        super().__init__(sample_period=sample_period, start=start, **options)
        self.momentum = check_number("momentum", momentum, at_least=0, below=1)

    def _add(self, weights: Weights) -> None:
        if not self._kept:
            self._kept.append(weights)
        else:
            # m a + (1 - m) w = a + (1 - m) (w - a)
            move(self._kept[0], weights, 1 - self.momentum)
