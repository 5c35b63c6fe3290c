"""Batches in an order that is a function of the seed and the epoch.

`fit(shuffle=True)` on arrays repeats one order in every epoch once Keras is seeded, and draws it
from a state that a resumed run does not have. Here the order of epoch e, and how its images are
distorted, come from (seed, e) alone, so a run can be resumed at any step, on every backend.

On TensorFlow each batch of a `PyDataset` is a call from its threads to Python, some 0.7 ms where a
step of a small network takes 2; `read_ahead` hands over the batches of many steps in one call. JAX
and torch pay for no such call.
"""

import atexit
import gc
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from laperm_lib import _backend
from laperm_lib._arguments import check_bool, check_integer
from laperm_lib._random import check_seed, random_order

_STEPS = 20  # in one call: its cost is then small beside them, and so is the memory


class Augmentation(Protocol):
    """How images are distorted, differently in every epoch; write your own class with both methods.

    `laperm_lib.paper.augmentation.Augmentation` rotates, zooms, shifts and flips.
    """

    def transforms(self, count: int, shape: Sequence[int], *, seed: int, epoch: int) -> np.ndarray:
        """One row for each of `count` images of that shape; an error for a shape it cannot take."""

    def apply(self, images: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        """Images distorted by one row of `transforms` each."""


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` samples in an epoch, counted from 0: a permutation, dtype intp.

    Examples:
        >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
        [0, 1, 2, 3, 4]
    """
    return random_order(count, seed, f"order of epoch {epoch}")


class Batches(keras.utils.PyDataset):
    """All batches of a training, in order: hand it to `fit(..., epochs=1, shuffle=False)`.

    Args:
        x: inputs, shape (n, ...); images if they are augmented.
        y: targets, shape (n, ...).
        batch_size: samples per step; the last batch of an epoch holds what is left.
        epochs: how often all samples are seen.
        seed: an integer of at least 0.
        augmentation: an `Augmentation` of the images. Default: none.
        first_step: steps that the training has already taken, 0 (the default) to all of them. The
            batches are those of the remaining steps.
        drop_remainder: leave out what does not fill a batch, unless there is less than one of it.
            Default False.

    Raises:
        ValueError: if the lengths of `x` and `y` differ or are 0, another argument is outside its
            range, or the augmentation cannot take images of this shape.

    Examples:
        >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, epochs=3, seed=0)
        >>> len(batches), batches.steps_per_epoch, [len(batches[i][0]) for i in range(3)]
        (9, 3, [2, 2, 1])
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        augmentation: Augmentation | None = None,
        first_step: int = 0,
        drop_remainder: bool = False,
    ) -> None:
        super().__init__()
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{len(x)} inputs and {len(y)} targets make no batches.")
        self._x, self._y = x, y
        self._batch_size = check_integer("batch_size", batch_size, at_least=1)
        self._epochs = check_integer("epochs", epochs, at_least=1)
        self._seed = check_seed(seed)
        self._augmentation = augmentation
        self._drop_remainder = check_bool("drop_remainder", drop_remainder)
        self._first_step = check_integer("first_step", first_step, at_least=0)
        if self._first_step > self._epochs * self.steps_per_epoch:
            raise ValueError(
                f"first_step={first_step}, but the training has only "
                f"{self._epochs * self.steps_per_epoch} steps."
            )
        if augmentation is not None:
            augmentation.transforms(0, x.shape[1:], seed=seed, epoch=0)  # refuses other shapes
        self._drawn: tuple[int, np.ndarray, np.ndarray | None] = (-1, np.empty(0, np.intp), None)

    @property
    def workers(self) -> int:
        """One, in `fit`: with more, Keras 3.15 on JAX and torch gives the first batch last."""
        return 1

    @property
    def use_multiprocessing(self) -> bool:
        """False, for the same reason."""
        return False

    @property
    def steps_per_epoch(self) -> int:
        """How many batches hold all samples once."""
        whole, left = divmod(len(self._x), self._batch_size)
        return whole if self._drop_remainder and whole else whole + bool(left)

    def __len__(self) -> int:
        """The number of steps that remain of the training; 0 once closed."""
        return max(0, self._epochs * self.steps_per_epoch - self._first_step)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The inputs and targets of a step, counted from 0 at `first_step`."""
        if not 0 <= step < len(self):
            raise IndexError(f"Steps are 0 to {len(self) - 1}, got {step}.")
        return self._read(self._first_step + step, 1)

    def blocks(self, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All batches in order, up to `steps` of one size and epoch at once."""
        step, end = self._first_step, self._first_step + len(self)
        whole = len(self._x) // self._batch_size  # an epoch may end with a smaller batch
        while step < end:
            count = max(1, min(steps, whole - step % self.steps_per_epoch))
            x, y = self._read(step, count)
            yield x.reshape(count, -1, *x.shape[1:]), y.reshape(count, -1, *y.shape[1:])
            step += count

    def close(self) -> None:
        """Let go of the data once training is over: TensorFlow would keep them for ever."""
        self._x, self._y = self._x[:0].copy(), self._y[:0].copy()
        self._drawn = (-1, np.empty(0, np.intp), None)

    def _read(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples of `count` steps of one epoch, the first of them counted from the start."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order, transforms = self._draw(epoch)
        chosen = order[batch * self._batch_size :][: count * self._batch_size]
        x = self._x[chosen]
        if self._augmentation is not None and transforms is not None:
            x = self._augmentation.apply(x, transforms[chosen])
        return x, self._y[chosen]

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The order and the transforms of all samples in an epoch, drawn once.

        Threads may call this on either side of an epoch's end; each uses what it has read or drawn.
        """
        drawn_epoch, order, transforms = self._drawn
        if drawn_epoch != epoch:
            count, seed = len(self._x), self._seed
            order = epoch_order(count, seed=seed, epoch=epoch)
            transforms = None
            if self._augmentation is not None:
                shape = self._x.shape[1:]
                transforms = self._augmentation.transforms(count, shape, seed=seed, epoch=epoch)
            self._drawn = (epoch, order, transforms)
        return order, transforms


def read_ahead(batches: Batches) -> Any:
    """What to hand to `fit(..., epochs=1, shuffle=False)` so that it need not wait for batches.

    On TensorFlow this is a `tf.data.Dataset` of the same batches, elsewhere the batches themselves.
    Do not close them before the training ends. A ValueError if no steps remain.

    Examples:
        >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, epochs=3, seed=0)
        >>> len(read_ahead(batches))
        9
    """
    if len(batches) == 0:
        raise ValueError("The training is over: no steps are left to read batches for.")
    tf = _backend.tensorflow()
    if tf is None:
        return batches
    # What reads ahead waits for Python, and Python's end for it: it is to be gone before that.
    atexit.unregister(gc.collect)
    atexit.register(gc.collect)
    signature = tuple(
        tf.TensorSpec((None, None, *array.shape[1:]), array.dtype) for array in batches[0]
    )
    blocks = tf.data.Dataset.from_generator(
        lambda: batches.blocks(_STEPS), output_signature=signature
    )
    steps = blocks.prefetch(1).flat_map(lambda *block: tf.data.Dataset.from_tensor_slices(block))
    options = tf.data.Options()
    # The longer its thread has lived, the longer it sleeps, and `fit` waits for it to end.
    options.autotune.enabled = False
    counted = steps.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(2).with_options(options)
