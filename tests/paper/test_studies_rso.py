"""The study of RSO: its runs, their records, and going on after a cut."""

import dataclasses
import json

import numpy as np
import pytest

from laperm_lib.errors import LaPermError
from laperm_lib.paper.studies import rso

QUICK = rso.Settings(dataset="digits", filters=(2, 3), cycles=3, batch_size=200)


@pytest.fixture(scope="module")
def result():
    return rso.run(QUICK, seed=0)


def test_a_run_is_measured_after_every_cycle(result):
    assert [point.cycle for point in result.points] == [0, 1, 2, 3]
    assert result.parameters == QUICK.build(0).count_params()
    assert result.accuracy_after(0) == result.points[0].accuracy
    assert result.accuracy_after(3) > result.accuracy_after(0) + 0.1
    assert not result.is_permutation
    for point in result.points[1:]:
        assert point.candidates == 2 * result.parameters
        assert 0 < point.changed <= result.parameters
        assert point.seconds > 0
    with pytest.raises(ValueError, match="after 4 cycles"):
        result.accuracy_after(4)


def test_exchanges_are_permutations_behind_every_cycle():
    settings = dataclasses.replace(QUICK, move="exchange", cycles=2)
    result = rso.run(settings, seed=0)
    assert result.is_permutation
    assert result.points[-1].changed > 0
    kernels = result.parameters - sum(settings.filters) - 10
    # Each weight is in one pair at most; biases, all zeros, have nothing to exchange.
    assert kernels / 2 - 20 < result.points[1].candidates <= kernels / 2


def without_times(result):
    points = [dataclasses.replace(point, seconds=0.0) for point in result.points]
    return dataclasses.replace(result, points=tuple(points))


def test_a_run_that_is_cut_goes_on_to_the_same_result(result, tmp_path):
    cut = rso.run(QUICK, seed=0, folder=tmp_path, cycles=1)
    assert [point.cycle for point in cut.points] == [0, 1]
    whole = rso.run(QUICK, seed=0, folder=tmp_path)
    assert without_times(whole) == without_times(result)
    assert whole.points[:2] == cut.points
    again = rso.run(QUICK, seed=0, folder=tmp_path)  # there is nothing left to do
    assert again.points == whole.points


def test_the_state_of_another_search_is_refused(tmp_path):
    rso.run(QUICK, seed=0, folder=tmp_path, cycles=1)
    for other in ({"seed": 1}, {"settings": dataclasses.replace(QUICK, cycles=4)}):
        with pytest.raises(ValueError, match="another search"):
            rso.run(**{"settings": QUICK, "seed": 0, "folder": tmp_path, **other})


def test_results_are_written_and_read(result, tmp_path, monkeypatch):
    monkeypatch.setattr(rso, "SETTINGS", {"quick": dataclasses.replace(QUICK, cycles=1)})
    rso.write(tmp_path / "records", ["quick"], seeds=[0, 1], state=tmp_path / "state")
    read = rso.load(tmp_path / "records" / "quick.json")
    assert [(r.seed, len(r.points), r.settings.cycles) for r in read] == [(0, 2, 1), (1, 2, 1)]
    rso.save([result], tmp_path / "one.json")
    assert rso.load(tmp_path / "one.json") == (result,)
    assert json.loads((tmp_path / "one.json").read_text())[0]["environment"]


@pytest.mark.parametrize("text", [None, "[{}]", "nothing"])
def test_what_holds_no_results_is_refused(text, tmp_path):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LaPermError, match=r"bad\.json"):
        rso.load(path)


def test_the_seed_decides_the_network():
    first, again, other = (QUICK.build(seed).get_weights() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert rso.Settings().build(0).count_params() == 9098
