"""What LaPerm adds to training with its inner optimizer, in the same run.

Blocks of `fit` with Adam and with LaPerm around Adam take turns, so that a change in the speed of
the machine meets both; the ratio is taken pair by pair.
"""

import time

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm, models

BATCH = 50
ROUNDS = 7


def compiled_model(name, optimizer):
    model = models.build(name, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    return model


# The synchronisation at the end of fit counts too, hence blocks of at least one period.
@pytest.mark.parametrize(
    ("name", "sync_period", "steps"), [("conv7", 20, 200), ("conv7", 1000, 1000), ("conv2", 20, 60)]
)
def test_overhead(benchmark, name, sync_period, steps):
    generator = np.random.default_rng(0)
    x = generator.random((BATCH * steps, *models.spec(name).input_shape), dtype=np.float32)
    y = generator.integers(0, 10, size=len(x))
    plain = compiled_model(name, keras.optimizers.Adam())
    permuting = compiled_model(name, LaPerm(keras.optimizers.Adam(), sync_period))

    def block(model):
        started = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        return time.perf_counter() - started

    pairs = []

    def pair():
        # The one that goes first changes from pair to pair.
        order = (plain, permuting) if len(pairs) % 2 else (permuting, plain)
        seconds = {id(model): block(model) for model in order}
        pairs.append((seconds[id(plain)], seconds[id(permuting)]))

    for model in (plain, permuting):
        block(model)
    benchmark.pedantic(pair, rounds=ROUNDS)
    before, after = np.array(pairs).T
    benchmark.extra_info["Adam, ms per step"] = round(1e3 * np.median(before) / steps, 3)
    benchmark.extra_info["LaPerm, ms per step"] = round(1e3 * np.median(after) / steps, 3)
    benchmark.extra_info["overhead %"] = round(100 * (np.median(after / before) - 1), 2)
