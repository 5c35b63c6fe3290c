"""How the experiments call `fit`."""

from dataclasses import replace

import keras
import pytest
from small_network import BATCH, X, Y, build_model

from laperm_lib import LaPerm
from laperm_lib.batches import Batches
from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import evaluation, fitting


@pytest.mark.parametrize(
    ("period", "offsets", "steps"), [(250, [0], 50), (250, [0, 25, 125], 25), (60, [0, 1], 1)]
)
def test_executions_end_where_something_is_measured(period, offsets, steps):
    settings = replace(experiments.quick("f1"), sync_period=period, evaluate_every=period)
    found = evaluation.schedule(settings, 1000, offsets)
    expected = 1 if keras.backend.backend() == "torch" else steps
    assert fitting.steps_per_execution(found) == expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's way of tracing")
def test_a_training_step_is_traced_once():
    traced = []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def noted(y, logits):
        traced.append(logits.shape)
        return loss(y, logits)

    model = build_model()
    model.compile(LaPerm("adam", sync_period=2), loss=noted, steps_per_execution=3)
    batches = Batches(X, Y, batch_size=BATCH, epochs=2, seed=0)
    fitting.fit(model, batches)
    assert int(model.optimizer.iterations) == 2 * len(X) // BATCH
    assert len(traced) == 1


def test_a_built_optimizer_goes_on():
    model = build_model()
    model.compile(LaPerm("adam", sync_period=2), loss="sparse_categorical_crossentropy")
    for steps in (9, 18):
        fitting.fit(model, Batches(X, Y, batch_size=BATCH, epochs=1, seed=0))
        assert int(model.optimizer.iterations) == steps
    assert model.optimizer.is_permutation()


def test_the_batches_are_let_go_of():
    model = build_model()
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    batches = Batches(X, Y, batch_size=BATCH, epochs=1, seed=0)
    fitting.fit(model, batches)
    assert batches.steps_per_epoch == 0
