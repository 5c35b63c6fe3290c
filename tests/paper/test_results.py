"""The table: what was published beside what there is, and nothing that there is not."""

import json
from dataclasses import replace

import pytest

from laperm_lib.errors import LaPermError
from laperm_lib.paper import datasets, experiments
from laperm_lib.paper.experiments import Evaluation, Task, catalogue, formats, results


def made(experiment, seed=0, final=0.5, **values):
    """A record as a run would leave it, with numbers that no run has measured."""
    settings = replace(experiments.PUBLISHED[experiment], **values)
    return experiments.Record(
        hyperparameters=settings,
        seed=seed,
        fraction_pruned=0.0,
        evaluations=(Evaluation(1000, 0, final + 0.1, 0.3 if settings.held_out else None),),
        final=final,
        is_permutation=settings.sync_period is not None,
        seconds=1.0,
        data_fingerprint="0",
        experiment=experiment,
        environment={},
    )


def test_without_runs_every_row_says_so():
    lines = results.table([])
    assert [line.experiment for line in lines if line.published is not None] == [
        row.experiment for row in catalogue.ROWS
    ]
    assert {line.seeds for line in lines} == {0}
    text = formats.as_text(lines)
    assert text.count(formats.NOT_YET) == len(lines)
    numbers = {f"{100 * row.accuracy:.2f}" for row in catalogue.ROWS}
    assert {word for word in text.split() if "." in word and word[:1] in "789"} == numbers


def test_seeds_are_joined_and_variants_kept_apart():
    found = [
        made("conv2", 0, 0.7),
        made("conv2", 1, 0.8),
        made("conv2", 0, 0.6, held_out=5000),
        made("conv2_adam", 0, 0.9),
        made("conv2", 0, 0.1, sync_period=100),  # another row's business
        made("conv2", 0, 0.1, dataset="digits"),
    ]
    lines = {(line.experiment, line.variant): line for line in results.table(found) if line.seeds}
    assert set(lines) == {
        ("conv2", "paper"),
        ("conv2", "paper, held_out=5000"),
        ("conv2_adam", "paper"),
    }
    both = lines["conv2", "paper"]
    assert both.final == experiments.summarise([0.7, 0.8])
    assert both.published_protocol == experiments.summarise([0.7 + 0.1, 0.8 + 0.1])
    assert both.selected is None
    assert both.permutations == 2
    assert lines["conv2", "paper, held_out=5000"].published == 0.7821


def test_precisions_are_joined_and_named():
    found = [made("conv7", 0, 0.7), made("conv7", 1, 0.8, precision="mixed_bfloat16")]
    (line,) = [line for line in results.table(found) if line.seeds]
    assert line.variant == "paper, precision=float32 (1) and mixed_bfloat16 (1)"
    assert line.final == experiments.summarise([0.7, 0.8])
    (line,) = [line for line in results.table(found[1:]) if line.seeds]
    assert line.variant == "paper, precision=mixed_bfloat16"
    assert results.table(found[:1])[0].variant == "paper"


def test_a_seed_in_two_precisions_is_no_second_seed():
    fast = {"precision": "mixed_bfloat16"}
    found = [made("conv7", 0, 0.7), made("conv7", 0, 0.8, **fast), made("conv7", 1, 0.9, **fast)]
    lines = [line for line in results.table(found) if line.seeds]
    assert {line.variant: (line.seeds, line.final) for line in lines} == {
        "paper": (1, experiments.summarise([0.7])),
        "paper, precision=mixed_bfloat16": (2, experiments.summarise([0.8, 0.9])),
    }


def test_a_best_accuracy_between_synchronisations_is_marked():
    found = [made("f1", seed) for seed in (0, 1)]
    (line,) = [line for line in results.table(found) if line.seeds]
    assert formats.BETWEEN not in formats.as_text([line])
    evaluations = (*found[0].evaluations, Evaluation(1025, 25, 0.9))
    found[0] = replace(found[0], evaluations=evaluations)
    (line,) = [line for line in results.table(found) if line.seeds]
    assert line.between == 1
    assert formats.as_text([line]).count(formats.BETWEEN) == 1


def test_copies_of_the_data_are_named():
    (fingerprint, copy), *_ = datasets.COPIES.items()
    official = made("conv2", 0)
    found = [official, replace(made("conv2", 1), data_fingerprint=fingerprint)]
    lines = results.table([official])
    assert formats.notes(lines) == []
    lines = results.table(found)
    note = f"Data of conv2: {copy.difference}."
    assert formats.notes(lines) == [note]
    for table in (formats.as_text(lines), formats.as_markdown(lines)):
        assert table.endswith(f"\n\n{note}")


def test_shortened_schedules_are_named():
    short = experiments.short("resnet50_70")
    found = [made("resnet50_70", epochs=short.epochs, milestones=short.milestones)]
    (line,) = [line for line in results.table(found) if line.seeds]
    assert line.variant == "short"
    assert "short" in formats.as_text([line])


def test_a_shortened_schedule_is_shown_until_there_is_a_run_in_full_and_in_sweeps():
    short = experiments.short("conv7")
    brief = made("conv7", final=0.6, epochs=short.epochs, decay=short.decay)
    full = made("conv7", seed=1, held_out=5000)
    (line,) = results.table([brief], ["conv7"])
    assert line.variant == "short"
    (line,) = results.table([brief, full], ["conv7"])
    assert line.variant == "paper, held_out=5000"
    words = [line.variant for line in results.table([brief, full], ["conv7_k"])]
    assert words[-2:] == ["sync_period=1200; short", "sync_period=1200; paper, held_out=5000"]


def test_sweeps_have_the_published_accuracy_beside_the_published_value_alone():
    found = [made("conv2", 0, 0.6, pruned=0.3), made("conv2", 0, 0.7)]
    lines = results.table(found, ["conv2_p"])
    assert [(line.variant, line.seeds) for line in lines[:4]] == [
        ("pruned=0.0; paper", 1),
        ("pruned=0.1", 0),
        ("pruned=0.2", 0),
        ("pruned=0.3; paper", 1),
    ]
    assert [line.published for line in lines] == [0.7821] + [None] * 9
    assert "pruned=0.1, not yet reproduced" in formats.as_text(lines)


def test_names_that_are_asked_for():
    assert [line.experiment for line in results.table([], ["f1_notebook"])] == ["f1_notebook"]
    with pytest.raises(ValueError, match="Unknown experiment or sweep 'conv3'"):
        results.table([], ["conv3"])


def test_formats():
    line = results.by_variant([made("conv2", s, f) for s, f in ((0, 0.7), (1, 0.8))])[0]
    head, rule, row = formats.as_markdown([line]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "| 75.00 ± 7.07 |" in row
    (values,) = json.loads(formats.as_json([line]))
    assert values["final"] == {"mean": 0.75, "spread": pytest.approx(0.0707, abs=1e-4)} | {
        "least": 0.7,
        "most": 0.8,
        "runs": 2,
    }


def test_what_there_is(tmp_path):
    runs, pretrained = tmp_path / "runs", tmp_path / "pretrained"
    assert results.states(runs, pretrained) == []
    finished, cut = made("f1", 0), Task("f2", experiments.PUBLISHED["f2"], 1)
    folder = experiments.RunFolder(runs, Task("f1", finished.hyperparameters, 0))
    experiments.save([finished], folder.path / "record.json")
    begun = experiments.RunFolder(runs, cut)
    for each in (folder, begun):
        with each.lock():
            pass
    begun.checkpoints.save(4690, {})
    # One record is of the same run, one is new, one of an experiment that is none of the paper's.
    experiments.save([made("f1", 0, 0.9), made("f1", 1)], pretrained / "f1.json")
    experiments.save([replace(made("f1", 2), experiment="sgperm")], pretrained / "sgperm.json")
    (pretrained / "manifest.json").write_text("{}")
    found = results.states(runs, pretrained)
    assert [(state.task.name, state.step, state.folder) for state in found] == [
        ("f1-seed0", 4690, True),
        ("f1-seed1", 4690, False),
        ("f2-seed1", 4690, True),
    ]
    assert found[0].record == finished
    assert found[0].seconds_left == 0
    assert found[2].record is None
    whole = catalogue.seconds(cut.settings)
    assert found[2].seconds_left == pytest.approx(whole * (1 - 4690 / 11725))
    (pretrained / "f2.json").write_text("{")
    with pytest.raises(LaPermError, match=r"f2\.json"):
        results.states(runs, pretrained)
