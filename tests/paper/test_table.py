"""Tables and series: the published results beside the records, and nothing that there is not."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from short_runs import made

from laperm_lib.paper import benchmark, datasets, table
from laperm_lib.paper.records import Evaluation
from laperm_lib.paper.settings import short
from laperm_lib.paper.table import NOT_YET, alike, as_markdown, as_text, notes

FAST = {"precision": "mixed_bfloat16"}


def rows(records, names=()):
    """The rows of the table that have runs, by their settings."""
    found = table.table(records, names)
    return {row["settings"]: row for _, row in found[found["seeds"] > 0].iterrows()}


def mean(row, name="final"):
    return row[name], row[f"{name}_std"]


def test_without_runs_every_row_says_so():
    found = table.table([])
    published = found[found["published"].notna()]
    assert published["experiment"].tolist() == [row.experiment for row in benchmark.ROWS]
    assert set(found["seeds"]) == {0}
    text = as_text(found)
    assert text.count(NOT_YET) == len(found)
    numbers = {f"{100 * row.accuracy:.2f}" for row in benchmark.ROWS}
    assert {word for word in text.split() if "." in word and word[:1] in "789"} == numbers
    assert table.table([], ["f1_notebook"])["experiment"].tolist() == ["f1_notebook"]
    with pytest.raises(ValueError, match="Unknown experiment or sweep 'conv3'"):
        table.table([], ["conv3"])


def test_seeds_are_joined_and_variants_kept_apart():
    found = [
        made("conv2", 0, 0.7),
        made("conv2", 1, 0.8),
        made("conv2", 0, 0.6, held_out=5000),
        made("conv2", 0, 0.1, sync_period=100),  # another row's business
        made("conv2", 0, 0.1, dataset="digits"),
        made("conv2_adam", 0, 0.9),
    ]
    own = rows(found[:-1])
    assert set(own) == {"paper", "paper, held_out=5000"}
    both = own["paper"]
    assert mean(both) == pytest.approx((0.75, 0.05 * 2**0.5))
    assert mean(both, "published_protocol") == pytest.approx((0.85, 0.05 * 2**0.5))
    assert pd.isna(both["selected"])
    assert (both["seeds"], both["permutations"], both["published"]) == (2, 2, 0.7821)
    assert own["paper, held_out=5000"]["published"] == 0.7821
    (adam,) = rows(found[-1:]).values()
    assert (adam["experiment"], adam["permutations"], adam["final"]) == ("conv2_adam", 0, 0.9)


def test_precisions_are_joined_and_named_and_a_seed_in_two_is_no_second_seed():
    found = [made("conv7", 0, 0.7), made("conv7", 1, 0.8, **FAST)]
    ((words, row),) = rows(found).items()
    assert words == "paper, precision=float32 (1) and mixed_bfloat16 (1)"
    assert row["final"] == pytest.approx(0.75)
    assert list(rows(found[1:])) == ["paper, precision=mixed_bfloat16"]
    assert list(rows(found[:1])) == ["paper"]
    both = rows([*found, made("conv7", 0, 0.9, **FAST)])
    assert {words: (row["seeds"], row["final"]) for words, row in both.items()} == {
        "paper": (1, 0.7),
        "paper, precision=mixed_bfloat16": (2, pytest.approx(0.85)),
    }


def test_a_best_accuracy_between_synchronisations_is_marked():
    found = [made("f1", seed) for seed in (0, 1)]
    assert "*" not in as_text(table.table(found, ["f1"]))
    found[0] = replace(found[0], evaluations=(Evaluation(1025, 25, 0.9),))
    shown = table.table(found, ["f1"])
    assert shown["between"].tolist() == [1]
    assert as_text(shown).count("*") == 1


def test_copies_of_the_data_are_named():
    (fingerprint, copy), *_ = datasets.COPIES.items()
    official = made("conv2", 0)
    assert notes(table.table([official])) == []
    found = table.table([official, replace(made("conv2", 1), data_fingerprint=fingerprint)])
    note = f"Data of conv2: {copy.difference}."
    assert notes(found) == [note]
    for write in (as_text, as_markdown):
        assert write(found).endswith(f"\n\n{note}")


def test_a_shortened_schedule_is_shown_until_there_is_a_run_in_full_and_in_sweeps():
    brief = made("conv7", final=0.6, schedule=short("conv7").schedule)
    full = made("conv7", seed=1, held_out=5000)
    assert list(rows([brief], ["conv7"])) == ["short"]
    assert list(rows([brief, full], ["conv7"])) == ["paper, held_out=5000"]
    words = ["sync_period=1200; short", "sync_period=1200; paper, held_out=5000"]
    assert list(rows([brief, full], ["conv7_k"])) == words
    resnet = made("resnet50_70", schedule=short("resnet50_70").schedule)
    assert list(rows([resnet])) == ["short"]


def test_sweeps_have_the_published_accuracy_beside_the_published_value_alone():
    found = table.table([made("conv2", 0, 0.6, pruned=0.3), made("conv2", 0, 0.7)], ["conv2_p"])
    assert list(zip(found["settings"], found["seeds"], strict=True))[:4] == [
        ("pruned=0.0; paper", 1),
        (f"pruned=0.1; {NOT_YET}", 0),
        (f"pruned=0.2; {NOT_YET}", 0),
        ("pruned=0.3; paper", 1),
    ]
    assert found["published"].dropna().to_dict() == {0: 0.7821}
    # Two sweeps share the runs with published settings; no row is repeated.
    found = table.table([made("conv7"), made("conv7", sync_period=20)], ["conv7_k", "conv7_batch"])
    assert (found["seeds"] > 0).sum() == 2


def test_formats():
    found = table.by_settings(made("conv2", s, f) for s, f in ((0, 0.7), (1, 0.8)))
    head, rule, row = as_markdown(found).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "| 75.00 ± 7.07 |" in row
    (values,) = json.loads(table.as_json(found))
    assert (values["final"], values["selected"]) == (0.75, None)
    assert values["final_std"] == pytest.approx(0.0707, abs=1e-4)


def test_runs_are_alike_that_differ_in_seed_alone_or_in_a_setting_that_is_named():
    first, second, held_out = made("conv7"), made("conv7", seed=1), made("conv7", held_out=5000)
    often, fast = made("conv7", sync_period=20), made("conv7", **FAST)
    runs = [first, held_out, often, made("conv7", dataset="digits"), made("conv7_adam"), second]
    assert alike(runs, "conv7") == {"paper": [first, second], "paper, held_out=5000": [held_out]}
    found = alike([often, held_out, first], "conv7", "sync_period")
    assert found == {"paper": [often, first], "paper, held_out=5000": [held_out]}
    # A seed in two precisions is two lines of a figure.
    fast_often = made("conv7", sync_period=20, **FAST)
    found = alike([first, fast, fast_often], "conv7", "sync_period")
    assert found == {"paper, float32": [first], "paper, mixed_bfloat16": [fast, fast_often]}
    # The words say no more than tells the runs apart.
    exact, fast = held_out, made("conv7", seed=1, held_out=5000, **FAST)
    assert alike([exact, fast], "conv7") == {"paper": [exact, fast]}
    schedule = short("conv7").schedule
    brief = [made("conv7", held_out=5000, schedule=schedule, **how) for how in ({}, FAST)]
    words = list(alike([*brief, exact], "conv7"))
    assert words == ["short, float32", "short, mixed_bfloat16", "paper"]


def test_steps_become_epochs_and_steps_between_synchronisations_are_left_out():
    """With images held out, an epoch is shorter."""
    evaluations = [Evaluation(600, 0, 0.7), Evaluation(1200, 0, 0.8), Evaluation(1250, 50, 0.9)]
    runs = [made("conv7", seed, evaluations=evaluations) for seed in (0, 1)]
    assert table.by_epoch(runs) == {0.5: [0.7, 0.7], 1.0: [0.8, 0.8]}
    run = made("conv7", held_out=5000, evaluations=[Evaluation(2200, 0, 0.7)])
    assert table.by_epoch([run]) == {2.0: [0.7]}
    final = [made("conv7"), made("conv7", 1, 0.6), made("conv7", sync_period=20, final=0.8)]
    assert table.by_setting(final, "sync_period") == {1200: [0.5, 0.6], 20: [0.8]}
