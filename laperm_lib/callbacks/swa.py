"""SWA: the equal average of all samples, to compare with.

References:
    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
"""

from laperm_lib.callbacks.sampling import Weights, WeightSampler, move


class SWA(WeightSampler):
    r"""Stochastic weight averaging: the equal average of all samples from a start on.

    .. math:: \bar w_n = \frac{1}{n} \sum_{i=1}^{n} w_i

    It is kept beside the training, which does not depend on it. Takes one copy of the weights on
    the host. The paper begins late in training, with a constant or cyclical learning rate, which
    is the optimizer's matter; `adopt` ends the training with the average.

    Args:
        sample_period: steps between two samples, at least 1; an epoch or a cycle in the paper.
        start: the steps before sampling begins. Default 0.
        **options: `batches`, `synchronise` and `in_validation`, as for
            `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: as `laperm_lib.callbacks.sampling.WeightSampler`.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> swa = SWA(sample_period=1, start=2)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[swa])
        >>> swa.samples
        2

    References:
        Izmailov et al., UAI 2018, algorithm 1.
    """

    def _add(self, weights: Weights) -> None:
        if not self._kept:
            self._kept.append(weights)
        else:
            # The mean of n samples from that of n - 1: m + (w - m) / n.
            move(self._kept[0], weights, 1 / self.samples)
