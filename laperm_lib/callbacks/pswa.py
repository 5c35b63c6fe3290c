"""PSWA: average the samples of a period, and go on from the average.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774.
"""

from typing import Any

from laperm_lib._arguments import check_integer
from laperm_lib.callbacks.sampling import Weights, WeightSampler, move


class PSWA(WeightSampler):
    r"""Periodically sampled weight averaging: training goes on from the average of each window.

    With the samples :math:`w_1, \dots, w_K` of a window,

    .. math:: w \leftarrow \frac{1}{K} \sum_{i=1}^{K} w_i ,

    then the next window begins. The optimizer's moments and step count are left as they are. The
    statistics of batch normalisation are re-estimated whenever the weights are replaced, and once
    more for each validation. Takes two copies of the weights on the host: the mean of the present
    window, and the average of the last one, which `averaged` and validation see.

    With `synchronise=True`, for a model that `LaPerm` trains, training goes on from the
    synchronised average, a permutation of the initial weights. Without, it is one again after the
    next synchronisation.

    Args:
        sample_period: steps between two samples, at least 1.
        window: the samples K of a window, at least 1. With 1 nothing is averaged.
        start: the steps before sampling begins. Default 0.
        **options: `batches`, `synchronise` and `in_validation`, as for
            `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: as `laperm_lib.callbacks.sampling.WeightSampler`, and for a `window` below 1.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> pswa = PSWA(sample_period=2, window=2)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pswa])
        >>> pswa.samples
        2
        >>> bool((pswa.average[0] == keras.ops.convert_to_numpy(model.layers[0].kernel)).all())
        True

    References:
        Tripathi et al., arXiv:1905.05774.
    """

    def __init__(self, *, sample_period: int, window: int, start: int = 0, **options: Any) -> None:
        super().__init__(sample_period=sample_period, start=start, **options)
        self.window = check_integer("window", window, at_least=1)

    def _add(self, weights: Weights) -> None:
        number = (self.samples - 1) % self.window + 1
        if number == 1:
            self._kept.append(weights)  # behind the average of the last window
        else:
            # The mean of n samples from that of n - 1: m + (w - m) / n.
            move(self._kept[-1], weights, 1 / number)
        if number == self.window:
            del self._kept[:-1]
            self.adopt()

    def _average(self) -> Weights | None:
        return self._kept[0] if self.samples >= self.window else None
