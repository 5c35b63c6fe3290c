"""Experiments: what a run measures, that it repeats, that the paper's settings do as reported."""

from contextlib import closing
from dataclasses import replace

import keras
import numpy as np
import pytest

from laperm_lib import weight_vectors
from laperm_lib.checkpoints import Checkpoints, state_of
from laperm_lib.errors import LaPermError
from laperm_lib.paper import datasets, experiments
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments import evaluation, training
from laperm_lib.paper.experiments.rates import EpochRates
from laperm_lib.paper.experiments.stopping import Stopped

SHORT = replace(experiments.quick("f1"), epochs=10, sync_period=50, evaluate_every=50)  # 120 steps


@pytest.fixture(scope="module")
def short_run():
    return experiments.run(SHORT, seed=3, evaluate_after=(0, 10))


def test_evaluations_are_where_they_were_asked_for(short_run):
    places = [(e.step, e.since_sync) for e in short_run.evaluations]
    assert places == [(50, 0), (60, 10), (100, 0), (110, 10)]


def test_the_final_network_is_what_was_measured(short_run):
    data = datasets.load("digits")
    _, x_test = models.preprocess("f1", data)
    logits = keras.ops.convert_to_numpy(short_run.model(x_test))
    assert short_run.final == (logits.argmax(axis=1) == data.y_test).mean()
    assert short_run.is_permutation


def test_the_network_holds_one_value_and_the_zeros_it_started_with(short_run):
    kernel = weight_vectors.of(short_run.model)[0].matrix()
    assert set(np.unique(kernel)) == {0, np.float32(0.08)}
    assert short_run.fraction_pruned == pytest.approx((kernel == 0).mean())


def test_a_seed_gives_the_same_run_again_and_another_seed_another(short_run):
    again = experiments.run(SHORT, seed=3, evaluate_after=(0,))
    other = experiments.run(SHORT, seed=4)
    kernels = [run.model.get_weights()[0] for run in (short_run, again, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_the_quick_profile_learns():
    """Ten classes; a network that has not learnt gets about 0.1."""
    assert experiments.run(experiments.quick("f1"), seed=0).final > 0.5


def test_best_is_the_best_of_its_kind(short_run):
    record = experiments.record("f1", short_run)
    synchronised = [e.accuracy for e in short_run.evaluations if e.since_sync == 0]
    assert record.best() == max(synchronised)
    with pytest.raises(ValueError, match="No evaluation 7 steps"):
        record.best(since_sync=7)


def test_records_are_read_back_as_written(short_run, tmp_path):
    record = experiments.record("f1", short_run)
    path = tmp_path / "new" / "f1.json"
    experiments.save([record, record], path)
    assert experiments.load(path) == (record, record)
    assert record.data_fingerprint == datasets.load("digits").fingerprint
    assert [entry.name for entry in path.parent.iterdir()] == ["f1.json"]


def test_a_failed_write_leaves_the_old_records(short_run, tmp_path, monkeypatch):
    record = experiments.record("f1", short_run)
    path = tmp_path / "f1.json"
    experiments.save([record], path)

    def no_space(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        experiments.save([record, record], path)
    assert len(experiments.load(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["f1.json"]


@pytest.mark.parametrize("text", ["", "[{", "3", '{"a": 1}', '[{"experiment": "f1"}]', "[3]"])
def test_files_that_hold_no_records(text, tmp_path):
    path = tmp_path / "foreign.json"
    path.write_text(text)
    with pytest.raises(LaPermError, match=r"foreign\.json"):
        experiments.load(path)


def test_no_such_records(tmp_path):
    with pytest.raises(LaPermError, match="no such file"):
        experiments.load(tmp_path / "none.json")


def test_summaries():
    summary = experiments.summarise([0.5, 0.6, 0.7])
    assert (summary.mean, summary.least, summary.most, summary.runs) == pytest.approx(
        (0.6, 0.5, 0.7, 3)
    )
    assert summary.spread == pytest.approx(0.1)
    assert experiments.summarise([0.5]).spread == 0
    with pytest.raises(ValueError, match="no runs"):
        experiments.summarise([])


def test_quick_profiles_end_at_the_published_learning_rate():
    for name, published in experiments.PUBLISHED.items():
        quick = experiments.quick(name)
        if not published.milestones:
            last = [each.rate(each.epochs - 1) for each in (quick, published)]
            assert last[0] == pytest.approx(last[1])
        assert quick.keep == published.keep
        assert (quick.sync_period is None) == (published.sync_period is None)


def test_published_settings():
    """FACTS.md's table, read again; the rates at the ends of training."""
    published = experiments.PUBLISHED
    assert {name for name in published if not name.endswith("_adam")} == {
        *("conv2", "conv4", "conv7", "conv13", "f1", "f1_notebook", "f2"),
        *("resnet50", "resnet50_30", "resnet50_50", "resnet50_70"),
    }
    assert published["conv7"].rate(44) == pytest.approx(1e-3 * 0.95**44)
    assert published["conv13"].rate(124) == pytest.approx(1e-3 * 0.6**12)
    rates = [published["resnet50_50"].rate(e) for e in (0, 80, 81, 121, 161, 181)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 5e-7])
    assert published["conv4_adam"] == replace(published["conv4"], sync_period=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"sync_period": 0},
        {"batch_size": 1.5},
        {"held_out": -1},
        {"learning_rate": float("nan")},
        {"model": "conv3"},
        {"shared_value": 0.1, "keep": ()},
    ],
)
def test_impossible_hyperparameters(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(experiments.PUBLISHED["conv7"], **wrong)


@pytest.mark.parametrize("offset", [-1, 50])
def test_evaluations_that_never_come(offset):
    with pytest.raises(ValueError, match="does not fit a period of 50"):
        experiments.run(SHORT, seed=0, evaluate_after=(offset,))


def test_evaluations_are_at_synchronisations():
    settings = replace(SHORT, sync_period=40, evaluate_every=100)
    found = evaluation.schedule(settings, 400, (0, 5))
    assert found == {120: 0, 125: 5, 200: 0, 205: 5, 320: 0, 325: 5, 400: 0}
    adam = replace(settings, sync_period=None)
    assert evaluation.schedule(adam, 350) == {100: 0, 200: 0, 300: 0}


def test_a_run_goes_on_from_any_step_and_is_measured_as_if_uncut(tmp_path, short_run):
    """The device takes several steps at once, counted from the first: the plan has to be met."""
    begun = training.start(SHORT, seed=3)
    with closing(begun.batches()) as batches:
        for number in range(37):
            begun.model.train_on_batch(*batches[number])
    checkpoints = Checkpoints(tmp_path)
    notes = {"evaluations": [], "seconds": 1.0, "environment": {"revision": "another"}}
    checkpoints.save(37, state_of(begun.model), notes)
    resumed = training.run(SHORT, seed=3, evaluate_after=(0, 10), checkpoints=checkpoints)
    assert resumed.evaluations == short_run.evaluations
    assert resumed.final == short_run.final
    assert resumed.environment["revision"] == f"another, then {begun.environment['revision']}"


def test_a_full_disk_does_not_keep_a_training_from_stopping(tmp_path, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(Stopped):
        training.run(SHORT, seed=3, checkpoints=checkpoints, stop=lambda: True)
    assert "Stops without a new checkpoint: No space left" in caplog.text


def test_data_can_be_loaded_once_for_several_runs():
    first = training.start(SHORT, seed=0)
    assert training.start(SHORT, seed=1, images=first.images).images is first.images


def test_rates_are_one_for_each_epoch():
    with pytest.raises(ValueError, match="no rates"):
        EpochRates([], 5)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        EpochRates([1.0], 0)


def test_held_out_images_are_not_trained_on():
    settings = replace(SHORT, held_out=200, epochs=5)
    begun = training.start(settings, seed=1)
    data = datasets.load("digits")
    images = begun.images
    assert [len(x) for x in (images.x_train, images.x_held_out)] == [1237, 200]
    together = np.concatenate([images.x_train, images.x_held_out]).reshape(1437, -1)
    everything = (data.x_train / np.float32(255)).reshape(1437, -1)
    np.testing.assert_array_equal(*(x[np.lexsort(x.T)] for x in (together, everything)))
    run = experiments.run(settings, seed=1)
    assert run.evaluations[-1].held_out == pytest.approx(
        evaluation.accuracy(run.model, images.x_held_out, images.y_held_out), abs=0.2
    )
    assert run.final_held_out == evaluation.accuracy(
        run.model, images.x_held_out, images.y_held_out
    )
    on_all = experiments.run(SHORT, seed=1)
    assert on_all.final_held_out is None
    assert all(e.held_out is None for e in on_all.evaluations)
    with pytest.raises(ValueError, match="cannot be held out"):
        experiments.run(replace(SHORT, held_out=1437), seed=1)


def test_adam_alone_is_an_experiment():
    settings = replace(experiments.quick("conv7_adam"), epochs=1, evaluate_every=10)
    run = experiments.run(settings, seed=0)
    assert [e.step for e in run.evaluations] == [10, 20]
    assert not run.is_permutation


def test_mixed_precision_is_an_experiment():
    # 237 images, five steps: processors without it take their time for bfloat16.
    few = replace(experiments.quick("conv7"), epochs=1, held_out=1200, sync_period=2)
    settings = replace(few, evaluate_every=4, precision="mixed_bfloat16")
    assert experiments.run(settings, seed=0).is_permutation


def test_unknown_experiments():
    for ask in (experiments.hyperparameters, experiments.quick):
        with pytest.raises(ValueError, match="f1, f1_notebook, f2"):
            ask("f3")
