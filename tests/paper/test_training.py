"""Runs: what is measured, that they repeat, and that interruptions change nothing."""

import os
import signal
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from short_runs import SHORT
from small_network import assert_same_weights

from laperm_lib import weight_vectors
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.errors import NonFiniteWeightError, WeightFileError
from laperm_lib.paper import datasets, evaluation, training
from laperm_lib.paper.evaluation import schedule
from laperm_lib.paper.methods import SGD, Average, LaPerm
from laperm_lib.paper.networks import preprocess
from laperm_lib.paper.settings import PUBLISHED, quick
from laperm_lib.paper.training import Stop, Stopped, Watch, run, steps_per_execution

LONGER = SHORT.replace(epochs=10, sync_period=50, evaluate_every=50)  # 120 steps


def test_a_run_is_measured_where_that_was_asked_for_and_depends_on_its_seed():
    record, other = (
        run(LONGER, seed=seed, experiment="f1", evaluate_after=(0, 10)) for seed in (3, 4)
    )
    places = [(e.step, e.since_sync) for e in record.evaluations]
    assert places == [(50, 0), (60, 10), (100, 0), (110, 10)]
    assert all(e.held_out is None for e in record.evaluations)
    assert (record.final_held_out, record.final_reestimated) == (None, None)

    data = datasets.load("digits")
    _, x_test = preprocess("f1", data)
    logits = keras.ops.convert_to_numpy(record.model(x_test))
    assert record.final == (logits.argmax(axis=1) == data.y_test).mean()
    assert record.is_permutation
    assert record.data_fingerprint == data.fingerprint
    assert (record.experiment, record.settings, record.seed) == ("f1", LONGER, 3)

    kernel = weight_vectors.of(record.model)[0].matrix()
    assert set(np.unique(kernel)) == {0, np.float32(0.08)}
    assert record.fraction_pruned == pytest.approx((kernel == 0).mean())
    kernels = [each.model.get_weights()[0] for each in (record, other)]
    assert not np.array_equal(*kernels)


def test_adam_alone_does_not_permute_and_images_held_out_are_measured_too():
    settings = SHORT.replace(sync_period=None, epochs=1, evaluate_every=5, held_out=200)
    record = run(settings, seed=0)
    assert [(e.step, e.since_sync) for e in record.evaluations] == [(5, 0), (10, 0)]
    assert not record.is_permutation
    images = evaluation.images_for(settings)
    held_out = evaluation.accuracy(record.model, images.x_held_out, images.y_held_out)
    assert record.final_held_out == held_out
    assert all(0 < e.held_out < 1 for e in record.evaluations)


def test_the_quick_profile_learns():
    """Ten classes; a network that has not learnt gets about 0.1."""
    assert run(quick("f1"), seed=0).final > 0.5


class Seen(Watch):
    """Notes the steps that it sees, multiples of its periods among them, and what it is told."""

    periods = (4,)

    def begin(self, images, last_step):
        self.steps, self.told = [], (len(images.x_train), last_step, self.model.name)

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(training.steps_taken(self.model))

    def measured(self):
        return {"steps": self.steps, "told": self.told}


def test_a_step_is_traced_once_and_what_watches_measure_is_in_the_record(monkeypatch):
    traced = []
    call = keras.losses.SparseCategoricalCrossentropy.call

    def noted(self, y, logits):
        traced.append(logits.shape)
        return call(self, y, logits)

    monkeypatch.setattr(keras.losses.SparseCategoricalCrossentropy, "call", noted)
    record = run(SHORT, seed=0, watches=[Seen()])
    assert int(record.model.optimizer.iterations) == 48
    assert record.measured["told"] == (1437, 48, "f1")
    assert set(record.measured["steps"]) >= set(range(4, 49, 4))
    if keras.backend.backend() == "tensorflow":
        assert len(traced) == 1


# What a resumed run could get wrong beside dropout: augmentation, momentum, samples of weights.
AVERAGED = SHORT.replace(
    method=Average(
        around=LaPerm(sync_period=3, inner=SGD(momentum=0.5)), average="PSWA", sample_period=2
    ),
    augmentation=PUBLISHED["conv2"].data.augmentation,
    held_out=1037,
    evaluate_every=3,
)


@pytest.mark.parametrize(
    ("settings", "asked"), [(LONGER, 37), (AVERAGED, 5), (SHORT, 48)], ids=["f1", "average", "end"]
)
def test_a_run_resumes_from_any_step_and_is_measured_as_if_uninterrupted(tmp_path, settings, asked):
    """The device takes several steps at once, counted from the first: the plan has to be met."""
    whole = run(settings, seed=3)
    checkpoints, every_step, steps = Checkpoints(tmp_path), Watch(), iter(range(1, asked + 1))
    every_step.periods = (1,)

    def stop():
        return next(steps) == asked

    with pytest.raises(Stopped):
        run(settings, seed=3, checkpoints=checkpoints, stop=stop, watches=[every_step])
    saved = checkpoints.latest()
    assert saved.step == asked
    notes = saved.notes | {"environment": saved.notes["environment"] | {"revision": "another"}}
    checkpoints.save(asked, saved.arrays, notes | {"seconds": 1000.0})
    resumed = run(settings, seed=3, checkpoints=checkpoints, began=time.perf_counter() - 500)
    assert all(map(np.array_equal, resumed.model.get_weights(), whole.model.get_weights()))
    assert resumed.seconds > 1500
    assert ("flipped" in resumed.measured) == (settings is AVERAGED)
    assert resumed.environment["revision"] == f"another, then {whole.environment['revision']}"
    same = {"seconds": 0, "environment": {}}
    assert replace(resumed, **same) == replace(whole, **same)


def test_the_checkpoint_of_another_training_is_refused(tmp_path, monkeypatch):
    def resume(**other):
        run(**{"settings": SHORT, "seed": 3, "checkpoints": checkpoints, **other})

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Stopped):
        resume(stop=lambda: True)
    saved = checkpoints.latest()
    checkpoints.save(48, saved.arrays, saved.notes)  # where this training would end
    for what, value in (
        *(("seed", 4), ("experiment", "f1"), ("evaluate_after", (0, 1))),
        *(("settings", SHORT.replace(sync_period=10)), ("settings", quick("f2"))),
    ):
        with pytest.raises(WeightFileError, match=f"a training that differs in {what}: resume"):
            resume(**{what: value})
    images = evaluation.images_for(SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "images_for", lambda *_: replace(images, fingerprint="other"))
        with pytest.raises(WeightFileError, match="differs in data:"):
            resume()
    with pytest.raises(WeightFileError, match=r"000000048\.npz: The optimizer has counted"):
        resume()


def test_a_full_disk_does_not_keep_a_training_from_stopping(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(Stopped):
        run(SHORT, seed=3, checkpoints=checkpoints, stop=lambda: True)
    assert "Stops without a new checkpoint: No space left" in caplog.text


@pytest.mark.parametrize("name", ["conv2", "f1"])
def test_the_network_keeps_the_statistics_of_its_training(name, monkeypatch):
    """The final network has the statistics that training left, whatever is measured."""
    settings = quick(name).replace(epochs=1, held_out=1337, sync_period=1)
    seen = []
    accuracy = evaluation.accuracy

    def noting(model, x, y, flip=False):
        seen.append(model.get_weights())
        return accuracy(model, x[:50], y[:50], flip=flip)

    monkeypatch.setattr(evaluation, "accuracy", noting)
    monkeypatch.setattr(training, "accuracy", noting)
    record = run(settings, seed=0)
    assert (record.final_reestimated is None) == (name == "f1")
    final = seen[-1]
    assert all(map(np.array_equal, record.model.get_weights(), final))
    if name == "conv2":
        *_, reestimated, _held_out, _test, _flipped = seen
        moved = [not np.array_equal(*pair) for pair in zip(reestimated, final, strict=True)]
        assert moved == ["moving" in weight.path for weight in record.model.weights]


def test_mixed_precision_permutes():
    # 237 images, five steps: processors without it take their time for bfloat16.
    few = quick("conv7").replace(epochs=1, held_out=1200, sync_period=2, evaluate_every=4)
    assert run(few.replace(precision="mixed_bfloat16"), seed=0).is_permutation


@pytest.mark.parametrize(
    ("period", "offsets", "steps"), [(250, [0], 50), (250, [0, 25, 125], 25), (60, [0, 1], 1)]
)
def test_executions_end_where_something_is_measured(period, offsets, steps):
    settings = SHORT.replace(sync_period=period, evaluate_every=period)
    expected = 1 if keras.backend.backend() == "torch" else steps
    assert steps_per_execution(schedule(settings, 1000, offsets)) == expected


def test_a_training_that_diverges_raises_an_error_of_ours():
    with pytest.raises(NonFiniteWeightError, match=r"^'dense/kernel' holds a NaN or an infinity"):
        run(SHORT.replace(learning_rate=1e38), seed=0)


def test_a_stop_is_due_after_its_time_or_a_signal():
    assert not Stop()()
    assert Stop(after=0)()
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_smoothed_labels_are_those_of_keras():
    logits = np.random.default_rng(0).normal(size=(6, 10)).astype("float32")
    classes = np.arange(6)
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    expected = smoothed(np.eye(10, dtype="float32")[classes], logits)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(training._Loss(0.2)(classes, logits)),
        keras.ops.convert_to_numpy(expected),
        rtol=1e-6,
    )


def test_a_run_of_latent_weights_with_a_peak_resumes_exactly(tmp_path):
    settings = SHORT.replace(
        method=LaPerm(sync_period=1, latent_weights=True), decay=1.0, peak=0.3, label_smoothing=0.1
    )
    whole, checkpoints, asked = run(settings, seed=3), Checkpoints(tmp_path), iter(range(9))
    with pytest.raises(Stopped):
        run(settings, seed=3, checkpoints=checkpoints, stop=lambda: next(asked) == 1)
    resumed = run(settings, seed=3, checkpoints=checkpoints)
    assert whole.is_permutation
    assert_same_weights(resumed.model, whole.model)
