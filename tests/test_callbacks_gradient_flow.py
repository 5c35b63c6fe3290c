"""Gradient flow over training: when it is measured, and that training does not depend on it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib import LaPerm, sparsity
from laperm_lib.callbacks import GradientFlowHistory
from laperm_lib.gradient_flow import effective_gradient_flow

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, 3, size=70)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SAMPLE = X[:20], Y[:20]


def network(dropout_seed=1):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=dropout_seed),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def fit(model, *callbacks, optimizer="adam", epochs=2, **how):
    """Seven steps an epoch."""
    if not model.compiled:
        model.compile(optimizer, loss=LOSS, **how)
    return model.fit(
        X, Y, batch_size=10, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )


def test_it_measures_at_the_start_at_every_multiple_and_at_the_end():
    flow, model = GradientFlowHistory(*SAMPLE, every=4), network()
    start = effective_gradient_flow(model, *SAMPLE, LOSS)
    fit(model, flow)
    assert list(flow.history) == [0, 4, 8, 12, 14]
    assert flow.history[0] == start
    assert flow.history[14] != flow.history[12]
    fit(model, flow, epochs=1)
    assert list(flow.history) == [14, 16, 20, 21]  # the latest training


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs one step at a time")
def test_steps_that_run_together_delay_it_and_skip_nothing():
    flow = GradientFlowHistory(*SAMPLE, every=4)
    fit(network(), flow, steps_per_execution=3)
    measured = list(flow.history)
    assert measured[0] == 0
    assert measured[-1] == 14
    assert all(any(first <= step < first + 3 for step in measured) for first in (4, 8, 12))


def test_training_goes_on_as_without_it():
    with_it = network(dropout_seed=None)
    fit(with_it, GradientFlowHistory(*SAMPLE, every=1))
    without = network(dropout_seed=None)
    fit(without)
    for one, other in zip(with_it.variables, without.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_the_logs_of_an_epoch_have_the_latest_means(tmp_path):
    flow = GradientFlowHistory(*SAMPLE, every=7, p=1)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    logged = fit(network(), flow, log).history
    assert logged["gradient_flow"] == [flow.history[7].norm, flow.history[14].norm]
    assert logged["effective_gradient_flow"] == [flow.history[s].effective for s in (7, 14)]
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert "effective_gradient_flow" in header


def test_a_network_trained_by_permuting_has_as_many_active_weights_at_each_synchronisation():
    model = network()
    report = sparsity.random_prune(model, 0.5, seed=0)
    flow = GradientFlowHistory(*SAMPLE, every=4)
    fit(model, flow, optimizer=LaPerm(keras.optimizers.Adam(0.01), sync_period=4))
    assert list(flow.history) == [0, 4, 8, 12, 14]
    for measured in flow.history.values():
        assert [layer.active for layer in measured.layers] == [e.kept for e in report.layers]
        assert measured.effective < measured.norm
    # The network that fit leaves, synchronised, is the one measured last.
    assert flow.history[14] == effective_gradient_flow(model, *SAMPLE, LOSS)


def test_another_loss_order_and_weights_can_be_asked_for():
    flow = GradientFlowHistory(*SAMPLE, every=100, p=3, loss=lambda y, out: 2 * LOSS(y, out))
    model = network()
    expected = 2 * effective_gradient_flow(model, *SAMPLE, LOSS, p=3).effective
    weighted = GradientFlowHistory(*SAMPLE, every=100, p=3, sample_weight=np.full(20, 2.0))
    fit(model, flow, weighted, epochs=1)
    assert flow.history[0].effective == pytest.approx(expected, rel=1e-5)
    assert weighted.history[0].effective == pytest.approx(expected, rel=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="every is an integer of at least 1"):
        GradientFlowHistory(*SAMPLE, every=0)
    with pytest.raises(ValueError, match="p is a number at least 1"):
        GradientFlowHistory(*SAMPLE, every=1, p=0)
    with pytest.raises(ValueError, match="same number"):
        fit(network(), GradientFlowHistory(X, Y[:3], every=1))
    with pytest.raises(ValueError, match="every=3 is not a multiple of the sync period 2"):
        fit(network(), GradientFlowHistory(*SAMPLE, every=3), optimizer=LaPerm("adam", 2))
    model = network()
    model.own = LaPerm("adam", 2)  # as a model with training steps of its own may call it
    with pytest.raises(ValueError, match="every=3 is not a multiple of the sync period 2"):
        fit(model, GradientFlowHistory(*SAMPLE, every=3))
