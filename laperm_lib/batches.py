"""Batches in an order that is a function of the seed and the epoch.

`fit(shuffle=True)` on arrays repeats one order in every epoch once Keras is seeded, and draws it
from a state that a resumed run does not have. Here the order of epoch e comes from (seed, e) alone,
so a run can go on from any step, and it is the same on every backend.
"""

import keras
import numpy as np

from laperm_lib.initializers import check_seed, raw_bits


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of samples in one epoch.

    Args:
        count: the number of samples.
        seed: an integer of at least 0.
        epoch: the number of the epoch, from 0.

    Returns:
        A permutation of `range(count)`, dtype intp.

    Examples:
        >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
        [0, 1, 2, 3, 4]
    """
    # 64 random bits a sample: ties, which the stable sort would leave in order, do not happen.
    keys = raw_bits(seed, f"order of epoch {epoch}").random_raw(count)
    return np.argsort(keys, kind="stable")


class Batches(keras.utils.PyDataset):
    """All batches of a training, in order: hand it to `fit(..., epochs=1, shuffle=False)`.

    Args:
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        batch_size: samples per step; the last batch of an epoch holds what is left.
        epochs: how often the data are gone through.
        seed: an integer of at least 0.

    Raises:
        ValueError: if the lengths of `x` and `y` differ or are 0, the seed is negative, or
            `batch_size` or `epochs` is below 1.

    Examples:
        >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, epochs=3, seed=0)
        >>> len(batches), batches.steps_per_epoch, [len(batches[i][0]) for i in range(3)]
        (9, 3, [2, 2, 1])
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, *, batch_size: int, epochs: int, seed: int
    ) -> None:
        super().__init__()
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{len(x)} inputs and {len(y)} targets make no batches.")
        if batch_size < 1 or epochs < 1:
            raise ValueError(
                f"Got batch_size={batch_size} and epochs={epochs}; both are at least 1."
            )
        self._x, self._y = x, y
        self._batch_size, self._epochs, self._seed = batch_size, epochs, check_seed(seed)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.intp))

    @property
    def steps_per_epoch(self) -> int:
        """How many batches go through the data once."""
        return -(-len(self._x) // self._batch_size)

    def __len__(self) -> int:
        """The number of steps of the whole training."""
        return self._epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The inputs and targets of a step, counted from 0 over the whole training."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(len(self._x), seed=self._seed, epoch=epoch))
        chosen = self._order[1][batch * self._batch_size :][: self._batch_size]
        return self._x[chosen], self._y[chosen]
