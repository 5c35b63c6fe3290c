"""What training each network costs, the numbers of `laperm_lib.paper.benchmark`.

Steps of the experiments themselves, augmentation included, on the bundled digits in the shape of
the published images: what pixels show does not change the time. The first block compiles.
"""

import time

import keras
import pytest

from laperm_lib.batches import Batches, read_ahead
from laperm_lib.paper.evaluation import images_for
from laperm_lib.paper.methods import EpochRates, Length
from laperm_lib.paper.settings import PUBLISHED

STEPS = {"conv2": 20, "conv4": 20, "conv7": 60, "conv13": 4, "resnet50": 8, "f1": 500, "f2": 500}
ROUNDS = 5


@pytest.mark.parametrize("name", STEPS)
def test_cost_of_an_image(benchmark, name):
    settings = PUBLISHED[name].replace(dataset="digits")
    images, batch_size = images_for(settings), settings.schedule.batch_size
    model, _ = settings.network.build(0)
    rates = EpochRates([settings.schedule.learning_rate], steps_per_epoch=1)
    model.compile(
        settings.method.optimizer(Length(rates, 1, 1, batch_size, seed=0)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS[name],
    )
    count = STEPS[name] * batch_size
    whole = Batches(
        images.x_train,
        images.y_train,
        batch_size=batch_size,
        epochs=-(-count // len(images.x_train)) + 1,
        seed=0,
        augmentation=settings.data.augmentation,
    )
    times = []

    def block():
        started = time.perf_counter()
        model.fit(
            read_ahead(whole), epochs=1, steps_per_epoch=STEPS[name], shuffle=False, verbose=0
        )
        times.append(1e3 * (time.perf_counter() - started) / count)

    benchmark.pedantic(block, rounds=ROUNDS, warmup_rounds=1)
    measured = sorted(times[1:])[ROUNDS // 2]
    benchmark.extra_info["ms per image"] = round(measured, 3)
