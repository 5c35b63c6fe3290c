"""Averages of weights sampled in training: PSWA, PWALKS and PSWM; SWA and Lookahead to compare.

PSWA and Lookahead continue training from their averages; the others keep theirs beside the
training, which does not depend on it. `WeightSampler` explains the arguments that all five share.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774 (PSWA, PWALKS, PSWM).
    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018
    (SWA).
    Zhang, Lucas, Hinton and Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019.
"""

from typing import Any

import numpy as np

from laperm_lib._arguments import check_integer, check_number
from laperm_lib.callbacks.sampling import Weights, WeightSampler, move, replace, weights_of


class PSWA(WeightSampler):
    r"""Periodically sampled weight averaging: training continues from the average of each window.

    With the samples :math:`w_1, \dots, w_K` of a window,

    .. math:: w \leftarrow \frac{1}{K} \sum_{i=1}^{K} w_i ,

    then the next window begins. The optimizer's moments and step count are left as they are. The
    statistics of batch normalisation are re-estimated whenever the weights are replaced, and once
    more for each validation. Takes two copies of the weights on the host: the mean of the present
    window, and the average of the last one, which `averaged` and validation see.

    With `synchronise=True`, for a model that `LaPerm` trains, training continues from the
    synchronised average, a permutation of the initial weights. Without, it is one again after the
    next synchronisation.

    Args:
        window: the samples K of a window, at least 1. With 1 nothing is averaged.
        **options: as for `laperm_lib.callbacks.sampling.WeightSampler`.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> pswa = PSWA(sample_period=2, window=2)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pswa])  # four steps
        >>> pswa.samples, bool((pswa.average[0] == model.get_weights()[0]).all())
        (2, True)
    """

    def __init__(self, *, window: int, **options: Any) -> None:
        super().__init__(**options)
        self.window = check_integer("window", window, at_least=1)

    def _add(self, weights: Weights) -> None:
        number = (self.samples - 1) % self.window + 1
        if number == 1:
            self._kept.append(weights)  # after the average of the last window
        else:
            # The mean of n samples from that of n - 1: m + (w - m) / n.
            move(self._kept[-1], weights, 1 / number)
        if number == self.window:
            del self._kept[:-1]
            self.adopt()

    def _average(self) -> Weights | None:
        return self._kept[0] if self.samples >= self.window else None


class PWALKS(WeightSampler):
    r"""Periodic weight averaging over the last K samples: a sliding window.

    After the n-th sample the average is

    .. math:: \bar w_n = \frac{1}{K} \sum_{i = n - K + 1}^{n} w_i ,

    of all samples while they are fewer than K. Takes K copies of the weights on the host.

    Args:
        window: the samples K that are averaged, at least 1.
        **options: as for `laperm_lib.callbacks.sampling.WeightSampler`.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("adam", loss="mse")
        >>> pwalks = PWALKS(sample_period=1, window=3)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pwalks])
        >>> with pwalks.averaged():
        ...     loss = model.evaluate(x, y, verbose=0)  # of the averaged network
    """

    def __init__(self, *, window: int, **options: Any) -> None:
        super().__init__(**options)
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


class PSWM(WeightSampler):
    r"""Periodically sampled weight momentum: an exponential average over samples.

    With the samples :math:`w_1, w_2, \dots` and the momentum :math:`\mu`,

    .. math:: \bar w_1 = w_1, \qquad \bar w_n = \mu \bar w_{n-1} + (1 - \mu) w_n .

    Takes one copy of the weights on the host. With `sample_period=1` it is the average of Keras's
    `use_ema=True`.

    Args:
        momentum: :math:`\mu`, 0 (the last sample) up to below 1. Default 0.9.
        **options: as for `laperm_lib.callbacks.sampling.WeightSampler`.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("adam", loss="mse")
        >>> pswm = PSWM(sample_period=2, momentum=0.5)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pswm])
        >>> pswm.adopt()  # the model is the average now
    """

    def __init__(self, *, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = check_number("momentum", momentum, at_least=0, below=1)

    def _add(self, weights: Weights) -> None:
        if not self._kept:
            self._kept.append(weights)
        else:
            # m a + (1 - m) w = a + (1 - m) (w - a)
            move(self._kept[0], weights, 1 - self.momentum)


class SWA(WeightSampler):
    r"""Stochastic weight averaging: the equal average of all samples from a start on.

    .. math:: \bar w_n = \frac{1}{n} \sum_{i=1}^{n} w_i

    The paper begins late in training, with a constant or cyclical learning rate, which is up to the
    optimizer, and samples once an epoch or cycle; `adopt` ends the training with the average. Takes
    one copy of the weights on the host.

    Args:
        **options: as for `laperm_lib.callbacks.sampling.WeightSampler`.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> swa = SWA(sample_period=1, start=2)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[swa])
        >>> swa.samples
        2
    """

    def _add(self, weights: Weights) -> None:
        if not self._kept:
            self._kept.append(weights)
        else:
            # The mean of n samples from that of n - 1: m + (w - m) / n.
            move(self._kept[0], weights, 1 / self.samples)


class Lookahead(WeightSampler):
    r"""Lookahead: every k steps slow weights move a part of the way, and training continues there.

    The fast weights :math:`\theta` are the model's. The slow ones :math:`\phi` start where training
    does; every k steps

    .. math:: \phi \leftarrow \phi + \alpha (\theta - \phi), \qquad \theta \leftarrow \phi .

    The optimizer's moments are left as they are, and so are the statistics of batch normalisation
    while training: they are re-estimated for `averaged`, `adopt` and validation, which see the slow
    weights. Takes one copy of the weights on the host.

    Args:
        sample_period: the steps k, at least 1. Default 5.
        slow_step_size: :math:`\alpha`, above 0 and at most 1 (which changes nothing but the
            rounding). Default 0.5.
        **options: as for `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: when `fit` starts, if the model is not built.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> lookahead = Lookahead(sample_period=2, slow_step_size=0.5)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[lookahead])
        >>> lookahead.samples
        2
    """

    def __init__(
        self, *, sample_period: int = 5, slow_step_size: float = 0.5, **options: Any
    ) -> None:
        super().__init__(sample_period=sample_period, start=0, **options)
        self.slow_step_size = check_number("slow_step_size", slow_step_size, above=0, at_most=1)

    def on_train_begin(self, logs: object = None) -> None:
        """Check as all do; the slow weights start as those of the model."""
        super().on_train_begin(logs)
        if not self._kept:
            if not self.model.built:
                raise ValueError("The slow weights start as the model's: build it before `fit`.")
            self._kept.append(weights_of(self.model))

    def _add(self, weights: Weights) -> None:
        move(self._kept[0], weights, self.slow_step_size)
        replace(self.model, self._kept[0], **self._how() | {"batches": None})
