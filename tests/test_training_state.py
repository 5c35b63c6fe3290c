"""The state of a training: steps, and optimizers inside of others; see also test_checkpoints."""

import keras
import numpy as np

from laperm_lib import LaPerm
from laperm_lib.training_state import nested, steps_taken


def test_optimizers_are_found_inside_of_others():
    adam = keras.optimizers.Adam()
    laperm = LaPerm(adam, 2)
    scaled = keras.optimizers.LossScaleOptimizer(laperm)
    assert list(nested(scaled)) == [scaled, laperm, adam]
    assert list(nested(adam)) == [adam]


def test_steps_taken_are_those_that_the_optimizer_has_counted():
    """In callbacks too, where JAX keeps the state apart, and behind a last, short execution."""

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(steps_taken(self.model))

    seen = []
    at_once = 1 if keras.backend.backend() == "torch" else 2
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", steps_per_execution=at_once)
    x, y = np.ones((10, 2)), np.ones((10, 1))
    for _ in range(2):
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[Note()])
    assert seen == ([*range(1, 11)] if at_once == 1 else [2, 4, 5, 7, 9, 10])
    assert steps_taken(model) == 10
