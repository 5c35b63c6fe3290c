"""Where the statistics of batch normalisation come from."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from laperm_lib import batch_statistics
from laperm_lib.errors import LaPermError
from laperm_lib.paper import records, training, verification
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.evaluation import Images, accuracy, images_for
from laperm_lib.paper.settings import quick
from laperm_lib.paper.studies import statistics


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    monkeypatch.setattr(statistics, "_FOLLOWED_BATCHES", 20)


@pytest.fixture
def images():
    """Bright and dark ones in uneven light, so that what is subtracted from them matters."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (y[:, None, None, None] + rng.normal(2, 1, (200, 6, 6, 1))).astype("float32")
    x[:, :, 3:] *= 3
    return Images(x, y, x[:0], y[:0], x, y, fingerprint="")


def network(dropout):
    keras.utils.set_random_seed(0)
    parts = layers.Dropout(dropout), layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="relu"), *parts]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_plain_statistics_are_those_reestimated_and_the_network_gets_its_own_back(images):
    model = network(0.5)
    model.fit(images.x_train, images.y_train, verbose=0)
    before = [np.array(weight) for weight in model.get_weights()]
    found = statistics.measure(model, images, Augmentation(shift=0.3))
    assert all(map(np.array_equal, before, model.get_weights()))
    assert found.left == accuracy(model, images.x_test, images.y_test)
    with batch_statistics.reestimated(model, [images.x_train]):
        assert found.plain == accuracy(model, images.x_test, images.y_test)


@pytest.mark.parametrize(
    ("dropout", "augmentation", "moved"),
    [
        (0, Augmentation(), [False, False, False]),
        (0.9, Augmentation(), [True, False, True]),
        (0, Augmentation(shift=0.3), [False, True, True]),
    ],
)
def test_dropout_and_distortions_show_and_nothing_else(
    images, monkeypatch, dropout, augmentation, moved
):
    # Statistics, not accuracies, which two sets of statistics may well share.
    model, seen = network(dropout), []

    def see(model, x, y):
        seen.append(np.concatenate([np.array(v) for v in model.get_weights()[-4:-2]]))
        return 0.0

    monkeypatch.setattr(statistics, "accuracy", see)
    statistics.measure(model, images, augmentation, batch_size=200)
    _, plain, *others = seen  # plain with dropout, distorted, distorted with dropout
    assert [np.abs(each - plain).max() > 0.05 * np.abs(plain).max() for each in others] == moved


def publish(name, folder, monkeypatch):
    """The name of a published run of two steps on 100 digits."""

    def few(*arguments):
        images = images_for(*arguments)
        parts = {part: getattr(images, part)[:100] for part in ("x_train", "y_train")}
        return replace(images, x_test=images.x_test[:50], y_test=images.y_test[:50], **parts)

    for module in (training, statistics):
        monkeypatch.setattr(module, "images_for", few)
    settings = quick(name).replace(epochs=1, evaluate_every=2, sync_period=2)
    record = training.run(settings, seed=0, experiment=name)
    return verification.publish_first(name, [record], folder).name


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "_FOLLOWED_BATCHES", 2)
    name = publish("conv2", tmp_path, monkeypatch)
    record = records.load_one(tmp_path / f"{name}.json")
    path = statistics.write(name, folder=tmp_path, verbose=0)
    assert path == tmp_path / "statistics" / f"{name}.json"
    found = statistics.load(path)
    assert found.left == pytest.approx(record.final, abs=1e-9)
    assert found.plain == pytest.approx(record.final_reestimated, abs=0.021)
    path.write_text('{"left": 0.5}')
    with pytest.raises(LaPermError, match="does not hold accuracies by statistics"):
        statistics.load(path)


def test_networks_without_augmentation_or_normalisation_are_refused(images, tmp_path, monkeypatch):
    name = publish("f1", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="was not trained on augmented images"):
        statistics.write(name, folder=tmp_path, verbose=0)
    assert not (tmp_path / "statistics").exists()
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match="has no batch normalisation"):
        statistics.measure(model, images, Augmentation(shift=0.3))
