"""The study of RSO: what a search measures, its records, and resuming it."""

from dataclasses import replace

import pytest

from laperm_lib.errors import WeightFileError
from laperm_lib.paper import records
from laperm_lib.paper.networks import SmallConvNetwork
from laperm_lib.paper.studies import rso

SMALL = SmallConvNetwork(filters=(2, 3), input_shape=(8, 8, 1))
QUICK = rso.SETTINGS["mnist_addition"].replace(
    network=SMALL, dataset="digits", epochs=3, batch_size=200
)


@pytest.fixture(scope="module")
def record():
    return rso.run(QUICK, seed=0)


def without_times(record):
    return replace(record, seconds=0, measured=record.measured | {"seconds": []})


def test_a_search_is_measured_after_every_cycle(record):
    assert [each.step for each in record.evaluations] == [0, 1, 2, 3]
    assert record.final == rso.accuracy_after(record, 3) > rso.accuracy_after(record, 0) + 0.1
    assert not record.is_permutation
    measured = record.measured
    assert measured["parameters"] == record.model.count_params()
    assert measured["candidates"] == [0, *[2 * measured["parameters"]] * 3]
    assert all(0 < changed <= measured["parameters"] for changed in measured["changed"][1:])
    assert all(seconds > 0 for seconds in measured["seconds"][1:])
    assert measured["loss"][0] is None
    with pytest.raises(ValueError, match="after 4 cycles"):
        rso.accuracy_after(record, 4)


def test_exchanges_are_permutations_after_every_cycle():
    record = rso.run(QUICK.replace(move="exchange", epochs=2), seed=0)
    assert record.is_permutation
    assert record.measured["changed"][-1] > 0
    kernels = record.measured["parameters"] - 2 - 3 - 10
    # Each weight is in one pair at most; biases, all zeros, have nothing to exchange.
    assert kernels / 2 - 20 < record.measured["candidates"][1] <= kernels / 2


def test_an_interrupted_search_resumes_to_the_same_record(record, tmp_path):
    first = rso.run(QUICK, seed=0, folder=tmp_path, cycles=1)
    assert [each.step for each in first.evaluations] == [0, 1]
    for other in ({"seed": 1}, {"settings": QUICK.replace(epochs=4)}):
        with pytest.raises(WeightFileError, match="a training that differs in"):
            rso.run(**{"settings": QUICK, "seed": 0, "folder": tmp_path, **other})
    whole = rso.run(QUICK, seed=0, folder=tmp_path)
    assert without_times(whole) == without_times(record)
    assert whole.measured["seconds"][:2] == first.measured["seconds"]
    assert rso.run(QUICK, seed=0, folder=tmp_path) == whole  # there is nothing left to do


def test_records_are_written_and_read(record, tmp_path, monkeypatch):
    quick = QUICK.replace(epochs=1)
    monkeypatch.setattr(rso, "SETTINGS", {"quick": quick})
    rso.write(tmp_path / "records", ["quick"], seeds=[0, 1], state=tmp_path / "state")
    found = records.load(tmp_path / "records" / "quick.json")
    written = [(r.seed, len(r.evaluations), r.settings) for r in found]
    assert written == [(seed, 2, quick) for seed in (0, 1)]
    records.save([record], tmp_path / "one.json")
    assert records.load_one(tmp_path / "one.json") == record
