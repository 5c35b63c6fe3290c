"""How batches reach `fit`: on TensorFlow several at once, so that small networks need not wait.

Keras reads a `PyDataset` batch by batch, and each is a call from TensorFlow's threads to Python,
some 0.7 ms where a step of F2 takes 2. Here a call hands over the batches of many steps, and
TensorFlow takes them apart by itself, ahead of the training. The other backends read a batch where
they need it, and pay for no such call.
"""

from typing import Any

import keras

from laperm_lib.batches import Batches

_STEPS = 20  # in one call: its cost is then small beside them, and so is the memory


def read_ahead(batches: Batches) -> Any:
    """What to hand to `fit(..., epochs=1, shuffle=False)` for batches: the same, in their order.

    Args:
        batches: those of the steps that are left; not to be closed before the training ends.

    Returns:
        On TensorFlow a `tf.data.Dataset` of as many elements; elsewhere the batches themselves.

    Raises:
        ValueError: if no steps are left to train.

    Examples:
        >>> import numpy as np
        >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, epochs=3, seed=0)
        >>> len(read_ahead(batches))
        9
    """
    if len(batches) == 0:
        raise ValueError("The training is over: no steps are left to read batches for.")
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    signature = tuple(
        tf.TensorSpec((None, None, *array.shape[1:]), array.dtype) for array in batches[0]
    )
    blocks = tf.data.Dataset.from_generator(
        lambda: batches.blocks(_STEPS), output_signature=signature
    )
    steps = blocks.prefetch(1).flat_map(lambda *block: tf.data.Dataset.from_tensor_slices(block))
    options = tf.data.Options()
    # Its thread sleeps again and again for as long as it has lived, and `fit` may end only with it.
    options.autotune.enabled = False
    counted = steps.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(2).with_options(options)
