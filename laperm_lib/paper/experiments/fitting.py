"""How the experiments call `fit`: batches in their order, the step traced once."""

import math
from collections.abc import Iterable, Sequence
from contextlib import closing

import keras

from laperm_lib.batches import Batches, read_ahead

# Callbacks and Python see only every so many steps; the device runs those in between by itself.
_MOST_STEPS_PER_EXECUTION = 50


def fit(
    model: keras.Model,
    batches: Batches,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    verbose: int = 0,
) -> None:
    """Train a network with Keras's `fit` to the end of its batches, or until a callback stops it.

    Args:
        model: built and compiled.
        batches: what it is trained on; let go of in the end.
        callbacks: what looks on. Default: nothing.
        verbose: 1 shows Keras's progress bar, 0 (the default) nothing.
    """
    # An optimizer that makes its variables in the first step makes TensorFlow trace it twice, which
    # is a second for a small network.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    with closing(batches):
        steps = read_ahead(batches)
        model.fit(steps, epochs=1, shuffle=False, verbose=verbose, callbacks=list(callbacks))


def steps_per_execution(ends: Iterable[int] = ()) -> int:
    """How many steps to hand to the device at once.

    Args:
        ends: steps after which a callback has something to do. Default: none but the last.

    Returns:
        The most, up to 50, whose multiples include all of them; with torch, which takes only one,
        1.
    """
    if keras.backend.backend() == "torch":
        return 1
    common = math.gcd(*ends)
    return max(n for n in range(1, _MOST_STEPS_PER_EXECUTION + 1) if common % n == 0)
