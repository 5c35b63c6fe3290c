"""What training each network costs, the numbers of `laperm_lib.paper.experiments.catalogue`.

Steps of the experiments themselves, augmentation included, on the bundled digits in the shape of
the published images: what pixels show does not change the time. The first block compiles.
"""

import time
from dataclasses import replace

import pytest

from laperm_lib.batches import Batches, read_ahead
from laperm_lib.paper.experiments import PUBLISHED, training

STEPS = {"conv2": 20, "conv4": 20, "conv7": 60, "conv13": 4, "resnet50": 8, "f1": 500, "f2": 500}
ROUNDS = 5


@pytest.mark.parametrize("name", STEPS)
def test_cost_of_an_image(benchmark, name):
    settings = replace(PUBLISHED[name], dataset="digits", epochs=1)
    begun = training.start(settings, seed=0)
    count = STEPS[name] * settings.batch_size
    epochs = -(-count // len(begun.images.x_train))
    begun.model.steps_per_execution = STEPS[name]
    whole = Batches(
        begun.images.x_train,
        begun.images.y_train,
        batch_size=settings.batch_size,
        epochs=epochs + 1,
        seed=0,
        augmentation=settings.augmentation,
    )
    times = []

    def block():
        started = time.perf_counter()
        begun.model.fit(
            read_ahead(whole), epochs=1, steps_per_epoch=STEPS[name], shuffle=False, verbose=0
        )
        times.append(1e3 * (time.perf_counter() - started) / count)

    benchmark.pedantic(block, rounds=ROUNDS, warmup_rounds=1)
    measured = sorted(times[1:])[ROUNDS // 2]
    benchmark.extra_info["ms per image"] = round(measured, 3)
