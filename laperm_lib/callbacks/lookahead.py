"""Lookahead: slow weights that follow the fast ones, to compare with.

References:
    Zhang, Lucas, Hinton and Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019.
"""

from typing import Any

from laperm_lib._arguments import check_number
from laperm_lib.callbacks import swapping
from laperm_lib.callbacks.sampling import Weights, WeightSampler, float_copies, move


class Lookahead(WeightSampler):
    r"""Lookahead: every k steps, slow weights go a part of the way, and training goes on from them.

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
        **options: `batches`, `synchronise` and `in_validation`, as for
            `laperm_lib.callbacks.sampling.WeightSampler`.

    Raises:
        ValueError: as `laperm_lib.callbacks.sampling.WeightSampler`, and for a `slow_step_size`
            outside of its range; when `fit` starts, if the model is not built.

    Examples:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> lookahead = Lookahead(sample_period=2, slow_step_size=0.5)
        >>> x, y = np.ones((32, 4)), np.ones((32, 3))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[lookahead])
        >>> lookahead.samples
        2

    References:
        Zhang et al., NeurIPS 2019, algorithm 1.
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
            self._kept.append(float_copies(self.model))

    def _add(self, weights: Weights) -> None:
        move(self._kept[0], weights, self.slow_step_size)
        swapping.replace(self.model, self._kept[0], batches=None, synchronise=self.synchronise)
