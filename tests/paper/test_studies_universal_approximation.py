"""Universal approximation by permutation: the construction, its bound, and the trainings."""

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laperm_lib.errors import LaPermError
from laperm_lib.paper import manifest
from laperm_lib.paper.studies import universal_approximation as study
from laperm_lib.paper.studies.universal_approximation import Row, Setting

WIDTHS = st.integers(1, 40).map(lambda couples: 2 * couples)
RECORDED = manifest.recorded("universal_approximation/rows.json")


@st.composite
def lipschitz(draw):
    """A function on [0, 1] of straight pieces, and its largest slope."""
    slopes = draw(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
    start = draw(st.floats(-3, 3))
    x = np.linspace(0, 1, len(slopes) + 1)
    y = start + np.concatenate([[0], np.cumsum(slopes) / len(slopes)])
    return lambda at: np.interp(at, x, y), max(map(abs, slopes))


@given(lipschitz(), WIDTHS)
def test_construction_is_a_permutation_within_its_bound(drawn, width):
    function, slope = drawn
    network = study.construct(function, width)
    ordered = [np.sort(study.start(width, "equidistant", 0)), np.sort(network.coefficients)]
    assert np.array_equal(*ordered)
    errors = np.abs(network(study.GRID[::8]) - function(study.GRID[::8]))
    assert errors.max() <= study.error_bound(slope, width) + 1e-9


@given(lipschitz(), WIDTHS)
@settings(max_examples=40)
def test_network_is_its_steps_alone(drawn, width):
    """In fractions: steps of one height, and unused couples that are a constant, exactly."""
    network = study.construct(drawn[0], width)
    values = [Fraction(round(value * width), width) for value in network.coefficients]
    rising, falling = values[:width], values[width:]
    biases = [Fraction(number, width - 1) for number in range(width)]
    unused = np.flatnonzero(np.repeat(network.steps == 0, 2))
    couples = range(0, width, 2)

    def output(chosen, x):
        return sum(
            rising[i] * max(x - biases[i], 0) + falling[i] * max(biases[i] - x, 0) for i in chosen
        )

    height = Fraction(width + 1, width) / (width - 1)
    for couple in couples:
        if network.steps[couple // 2]:
            own = (couple, couple + 1)
            before, *after = (output(own, x) for x in (biases[couple], biases[couple + 1], 1))
            assert before == output(own, 0)
            rise = network.steps[couple // 2] * height
            assert [each - before for each in after] == [rise, rise]
    levels = {output(unused, x) for x in [Fraction(0), *biases, Fraction(1, 3)]}
    if len(unused) % 4 == 0:
        assert len(levels) == 1
    else:
        assert max(levels) - min(levels) == height / (width + 1)


@pytest.mark.parametrize("name", study.TARGETS)
def test_error_falls_as_one_over_width(name):
    function, slope = study.TARGETS[name]
    difference = np.diff(function(study.GRID)) / np.diff(study.GRID)
    assert np.abs(difference).max() == pytest.approx(slope, rel=1e-3)
    errors = [
        np.abs(study.construct(function, width)(study.GRID) - function(study.GRID)).max()
        for width in (10, 40, 160, 640)
    ]
    for wide, narrow in zip(errors[1:], errors, strict=False):
        assert wide < narrow / 2


def test_constant_function_has_no_error():
    network = study.construct(lambda x: np.full(np.shape(x), 0.7), 12)
    assert network.scale == 0
    assert np.array_equal(network(study.GRID), np.full(len(study.GRID), 0.7))


@pytest.mark.parametrize("width", [3, 0, 2.0])
def test_impossible_width_is_refused(width):
    with pytest.raises((ValueError, TypeError), match="width"):
        study.construct(np.sin, width)


@given(st.integers(1, 50), st.sampled_from(["equidistant", "random"]), st.integers(0, 9))
def test_start_is_of_pairs(width, values, seed):
    drawn = np.sort(study.start(width, values, seed))
    assert np.array_equal(drawn, -drawn[::-1])
    assert len(np.unique(drawn)) == 2 * width
    assert np.array_equal(drawn, np.sort(study.start(width, values, seed)))


SETTING = Setting(width=10, values="equidistant", trained_output=True, rate=0.1, sync_period=5)


def test_networks_trained_together_are_those_trained_alone():
    """Of the same points: the first seed draws them."""
    together = study.curves(SETTING, (3, 4), steps=50)
    assert together.shape == (len(study.TARGETS), 2, len(study.GRID))
    assert np.allclose(together[:, :1], study.curves(SETTING, (3,), steps=50), atol=1e-4)


@pytest.mark.parametrize("trained", [True, False])
def test_laperm_trains_by_permuting(trained):
    """`curves` asserts that it is a permutation; a network of those is linear between biases."""
    found = study.curves(replace(SETTING, trained_output=trained), (0,), steps=50)
    x = study.ramps(study.GRID, 10)
    for network in found[:, 0]:
        fitted = x @ np.linalg.lstsq(x, network, rcond=None)[0]
        assert np.abs(fitted - network).max() < 1e-4


@given(st.integers(5, 60))
def test_parts_of_a_table_are_disjoint_and_the_test_part_is_kept_from_selection(count):
    trained, test = study.parts(count, selecting=False)
    before, selected = study.parts(count, selecting=True)
    assert sorted([*trained, *test]) == list(range(count))
    assert sorted([*before, *selected]) == sorted(trained)
    assert len(test) == len(selected) == count // 5


def test_records_are_written_once_with_the_best_trial(monkeypatch, tmp_path):
    made = []

    def scored_by_rate(setting, seeds):
        made.append(setting)
        names = [setting.task] if setting.task in study.TABLES else list(study.TARGETS)
        return Row(setting, seeds, dict.fromkeys(names, (setting.rate or 0.5,) * len(seeds)))

    monkeypatch.setattr(study, "run", scored_by_rate)
    monkeypatch.setattr(study, "TABLES", {"diabetes": None})
    monkeypatch.setattr(study, "WIDTHS", (10, 640))
    monkeypatch.setattr(study, "_TRIAL_WIDTHS", (20,))
    study.write(tmp_path)
    rows, count = study.load(tmp_path / "rows.json"), len(made)
    assert [row.setting for row in rows] == made
    final = [row for row in rows if row.seeds == study.SEEDS]
    # Scores are rates: the largest R², the smallest error.
    for row in final:
        is_adam, is_curve = row.setting.method == "adam", row.setting.task == study.CURVES
        best = {(1, 1): 0.001, (1, 0): 0.3, (0, 1): 0.03, (0, 0): 0.03}[is_adam, is_curve]
        assert row.setting.rate == best
    assert {r.setting.width for r in final if r.setting.width} == set(study.WIDTHS)
    study.write(tmp_path)
    assert len(made) == count


def test_damaged_records_are_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"setting": {}}]))
    with pytest.raises(LaPermError, match=re.escape(str(path))):
        study.load(path)


def test_shipped_records_are_complete_and_the_construction_is_made_again():
    rows = study.load(RECORDED)
    planned = list(study.planned(rows))
    assert len(rows) == len(planned)
    assert {(row.setting, row.seeds) for row in rows} == set(planned)
    for row in rows:
        if row.setting.method == "construction" and row.setting.width < 700:
            assert study.run(row.setting, row.seeds) == row
