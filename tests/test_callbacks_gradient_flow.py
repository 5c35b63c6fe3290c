"""Gradient flow over training: when it is measured, and that training does not depend on it."""

import keras
import numpy as np
import pytest
from keras import layers
from small_network import LOSS, X, Y, assert_same_weights, build_model, train

from laperm_lib import LaPerm, sparsity
from laperm_lib.callbacks import GradientFlowHistory
from laperm_lib.gradient_flow import effective_gradient_flow

SAMPLE = X[:20], Y[:20]


def test_it_measures_at_the_start_at_every_multiple_and_at_the_end():
    flow, model = GradientFlowHistory(*SAMPLE, every=4), build_model()
    start = effective_gradient_flow(model, *SAMPLE, LOSS)
    train(model, "adam", epochs=2, callbacks=[flow])
    assert list(flow.history) == [0, 4, 8, 12, 16, 18]
    assert flow.history[0] == start
    assert flow.history[18] != flow.history[16]
    train(model, None, callbacks=[flow])
    assert list(flow.history) == [18, 20, 24, 27]  # the latest training


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch runs one step at a time")
def test_steps_that_run_together_delay_it_and_skip_nothing():
    flow = GradientFlowHistory(*SAMPLE, every=4)
    train(build_model(), "adam", epochs=2, callbacks=[flow], steps_per_execution=5)
    measured = list(flow.history)
    assert measured[0] == 0
    assert measured[-1] == 18
    assert all(any(first <= step < first + 5 for step in measured) for first in (4, 8, 12, 16))


def test_training_goes_on_as_without_it():
    models = []
    for callbacks in ([GradientFlowHistory(*SAMPLE, every=1)], []):
        inner = build_model()  # and so the same masks
        models.append(keras.Sequential([keras.Input((6, 6, 2)), layers.Dropout(0.3), inner]))
        train(models[-1], "adam", epochs=2, callbacks=callbacks)
    assert_same_weights(*models)


def test_the_logs_of_an_epoch_have_the_latest_means(tmp_path):
    flow = GradientFlowHistory(*SAMPLE, every=9, p=1)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    logged = train(build_model(), "adam", epochs=2, callbacks=[flow, log]).history
    assert logged["gradient_flow"] == [flow.history[9].norm, flow.history[18].norm]
    assert logged["effective_gradient_flow"] == [flow.history[s].effective for s in (9, 18)]
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert "effective_gradient_flow" in header


def test_a_network_trained_by_permuting_has_as_many_active_weights_at_each_synchronisation():
    model = build_model()
    report = sparsity.random_prune(model, 0.5, seed=0)
    flow = GradientFlowHistory(*SAMPLE, every=4)
    train(model, LaPerm(keras.optimizers.Adam(0.01), 4), epochs=2, callbacks=[flow])
    assert list(flow.history) == [0, 4, 8, 12, 16, 18]
    for measured in flow.history.values():
        assert [layer.active for layer in measured.layers] == [e.kept for e in report.layers]
        assert measured.effective < measured.norm
    # The network that fit leaves, synchronised, is the one measured last.
    assert flow.history[18] == effective_gradient_flow(model, *SAMPLE, LOSS)


def test_another_loss_order_and_weights_can_be_asked_for():
    flow = GradientFlowHistory(*SAMPLE, every=100, p=3, loss=lambda y, out: 2 * LOSS(y, out))
    weighted = GradientFlowHistory(*SAMPLE, every=100, p=3, sample_weight=np.full(20, 2.0))
    model = build_model()
    expected = 2 * effective_gradient_flow(model, *SAMPLE, LOSS, p=3).effective
    train(model, "adam", callbacks=[flow, weighted])
    assert flow.history[0].effective == pytest.approx(expected, rel=1e-5)
    assert weighted.history[0].effective == pytest.approx(expected, rel=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="every is an integer of at least 1"):
        GradientFlowHistory(*SAMPLE, every=0)
    with pytest.raises(ValueError, match="p is a number at least 1"):
        GradientFlowHistory(*SAMPLE, every=1, p=0)
    with pytest.raises(ValueError, match="same number"):
        train(build_model(), "adam", callbacks=[GradientFlowHistory(X, Y[:3], every=1)])
    third, owner = GradientFlowHistory(*SAMPLE, every=3), build_model()
    owner.own = LaPerm("adam", 2)  # as a model with training steps of its own may call it
    for model, optimizer in ((build_model(), LaPerm("adam", 2)), (owner, "adam")):
        with pytest.raises(ValueError, match="every=3 is not a multiple of the sync period 2"):
            train(model, optimizer, callbacks=[third])
