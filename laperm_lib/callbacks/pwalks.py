"""PWALKS: the average over the last K samples.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774.
"""

from typing import Any

import numpy as np

from laperm_lib._arguments import check_integer
from laperm_lib.callbacks.sampling import Weights, WeightSampler


class PWALKS(WeightSampler):
    r"""Periodic weight averaging over the last K samples: a sliding window.

    After the n-th sample the average is

    .. math:: \bar w_n = \frac{1}{K} \sum_{i = n - K + 1}^{n} w_i ,

    of all samples while they are fewer than K. It is kept beside the training, which does not
    depend on it. Takes K copies of the weights on the host.

    Args:
        sample_period: steps between two samples, at least 1.
        window: the samples K that are averaged, at least 1.
        start: the steps before sampling begins. Default 0.
        **options: `batches`, `synchronise` and `in_validation`, as for
            `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: as `laperm_lib.callbacks.sampling.WeightSampler`, and for a `window` below 1.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("adam", loss="mse")
        >>> pwalks = PWALKS(sample_period=1, window=3)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pwalks])
        >>> with pwalks.averaged():
        ...     loss = model.evaluate(x, y, verbose=0)  # of the averaged network

    References:
        Tripathi et al., arXiv:1905.05774.
    """

    def __init__(self, *, sample_period: int, window: int, start: int = 0, **options: Any) -> None:
        super().__init__(sample_period=sample_period, start=start, **options)
        self.window = check_integer("window", window, at_least=1)

    def _add(self, weights: Weights) -> None:
        self._kept.append(weights)
        del self._kept[: -self.window]

    def _average(self) -> Weights | None:
        if not self._kept:
            return None
        return [
            np.mean(samples, axis=0, dtype=np.float64).astype(samples[0].dtype)
            for samples in zip(*self._kept, strict=True)
        ]
