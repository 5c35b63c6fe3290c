"""Networks are synchronised when they are validated, compared or saved."""

import keras
import pytest
from small_network import BATCH, LOSS, X, Y, build_model

from laperm_lib import LaPerm
from laperm_lib.callbacks import SynchroniseAtEpochEnd
from laperm_lib.optimizers.projecting import projecting_of


def trained(callbacks, *, validation=True, optimizer=None):
    """Five epochs of a number of steps that the sync period does not divide."""
    model = build_model()
    model.compile(optimizer or LaPerm("adam", sync_period=7), loss=LOSS)
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the first step twice
    how = {"epochs": 5, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    validation_data = (X, Y) if validation else None
    history = model.fit(X, Y, BATCH, validation_data=validation_data, **how)
    assert len(X) // BATCH % 7
    return model, history.history


def best_weights():
    return keras.callbacks.EarlyStopping(patience=0, restore_best_weights=True, min_delta=1e9)


def test_the_weights_put_back_are_a_permutation():
    scaled = keras.optimizers.LossScaleOptimizer(LaPerm("adam", sync_period=7))
    parts = {".*dense/.*": LaPerm("adam", sync_period=7)}
    mapped = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.01), parts)
    several = keras.optimizers.MultiOptimizer(mapped)
    assert not trained([best_weights()])[0].optimizer.is_permutation()
    for optimizer in (None, scaled, several):
        model, _ = trained([SynchroniseAtEpochEnd(), best_weights()], optimizer=optimizer)
        assert projecting_of(model)[0].is_permutation()


def test_the_network_measured_is_the_one_that_remains():
    model, history = trained([SynchroniseAtEpochEnd()])
    steps = 5 * len(X) // BATCH
    assert model.optimizer.last_sync == steps - steps % 7  # the sync period is as without it
    loss = model.evaluate(X, Y, batch_size=BATCH, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    _, without = trained([])
    assert without["val_loss"][-1] != pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("validation", [True, False])
def test_the_saved_network_is_a_permutation(tmp_path, validation):
    path = tmp_path / "epoch-{epoch}.keras"
    saving = keras.callbacks.ModelCheckpoint(path)
    trained([SynchroniseAtEpochEnd(), saving], validation=validation)
    for epoch in (2, 5):
        saved = keras.saving.load_model(tmp_path / f"epoch-{epoch}.keras")
        assert saved.optimizer.is_permutation()


def test_without_laperm_there_is_nothing_to_do():
    with pytest.raises(ValueError, match="Only a model that LaPerm trains"):
        trained([SynchroniseAtEpochEnd()], optimizer=keras.optimizers.Adam())
