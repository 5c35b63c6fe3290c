"""The three accuracies of a run, and what re-estimated statistics are measured on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laperm_lib.paper import experiments
from laperm_lib.paper.experiments import Evaluation

RUN = experiments.Record(
    hyperparameters=experiments.PUBLISHED["f1"],
    seed=0,
    fraction_pruned=0.4,
    evaluations=(
        Evaluation(250, 0, 0.80, 0.70),
        Evaluation(300, 50, 0.99, 0.99),
        Evaluation(500, 0, 0.82, 0.75),
        Evaluation(750, 0, 0.84, 0.75),
        Evaluation(1000, 0, 0.85, 0.74),
    ),
    final=0.83,
    is_permutation=True,
    seconds=1.0,
    data_fingerprint="0",
    experiment="f1",
    environment={},
)


def test_the_selected_network_is_synchronised_and_chosen_by_the_images_held_out():
    assert RUN.selected == 0.82
    unseen = tuple(replace(e, held_out=None) for e in RUN.evaluations)
    assert replace(RUN, evaluations=unseen).selected is None
    assert replace(RUN, evaluations=()).selected is None


@pytest.mark.parametrize(("held_out", "selected"), [(0.76, 0.83), (0.75, 0.82), (0.7, 0.82)])
def test_the_final_network_can_be_the_selected_one(held_out, selected):
    assert replace(RUN, final_held_out=held_out).selected == selected
    assert replace(RUN, final_held_out=held_out, evaluations=()).selected == RUN.final


def test_the_published_protocol_is_the_best_at_any_evaluation():
    assert RUN.published_protocol == 0.99
    assert RUN.best() == 0.85
    assert replace(RUN, evaluations=()).published_protocol == RUN.final


@pytest.mark.parametrize("later", ["final_reestimated", "final_held_out"])
def test_records_from_before_there_was_an_accuracy(tmp_path, later):
    path = tmp_path / "f1.json"
    experiments.save([RUN], path)
    (values,) = json.loads(path.read_text())
    assert values.pop(later) is None
    path.write_text(json.dumps([values]))
    assert experiments.load(path) == (RUN,)


def test_shipped_records_are_read(repository):
    for name in ("f1", "f1_notebook", "f2"):
        records = experiments.load(repository / "pretrained" / f"{name}.json")
        assert len(records) == 10
        assert all(record.final <= record.published_protocol for record in records)


@pytest.mark.parametrize("name", ["conv2", "f1"])
def test_the_network_keeps_the_statistics_of_its_training(name, monkeypatch):
    """What comes out has the statistics that training left, whatever is measured."""
    settings = replace(experiments.quick(name), epochs=1, held_out=1337, sync_period=1)
    seen = []
    accuracy = experiments.evaluation.accuracy

    def noting(model, x, y):
        seen.append(model.get_weights())
        return accuracy(model, x[:50], y[:50])

    monkeypatch.setattr(experiments.evaluation, "accuracy", noting)
    run = experiments.run(settings, seed=0)
    assert (run.final_reestimated is None) == (name == "f1")
    final = seen[-1]
    for kept, measured in zip(run.model.get_weights(), final, strict=True):
        np.testing.assert_array_equal(kept, measured)
    if name == "conv2":
        moved = [not np.array_equal(*pair) for pair in zip(seen[-3], final, strict=True)]
        statistical = ["moving" in weight.path for weight in run.model.weights]
        assert moved == statistical
