"""The grid of sync periods and rates, and how far weights travel in a period."""

from laperm_lib.paper.methods import SGD, LaPerm
from laperm_lib.paper.records import load
from laperm_lib.paper.studies import sync_period

QUICK = sync_period.SETTINGS["dense"].replace(dataset="digits", held_out=200, epochs=2)


def test_the_grid_has_every_pair_once_and_the_inner_method_alone():
    for network in sync_period.SETTINGS:
        for inner, (method, rates) in sync_period.INNER.items():
            found = list(sync_period.grid(network, inner))
            assert len(set(found)) == len(found) == (len(sync_period.PERIODS) + 2) * len(rates)
            assert [each.method for each in found[: len(rates)]] == [method] * len(rates)
            assert {each.schedule.learning_rate for each in found} == set(rates)


def test_the_travel_is_that_of_the_inner_method():
    settings = QUICK.replace(method=LaPerm(inner=SGD(), sync_period=4), learning_rate=0.05)
    record = sync_period.train(settings, seed=0)
    assert record.measured["travel"] > 0
    still = sync_period.train(settings.replace(learning_rate=0.0), seed=0)
    assert still.measured["travel"] == 0
    alone = sync_period.train(settings.replace(sync_period=None), seed=0)
    assert alone.measured["travel"] is None


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sync_period, "SETTINGS", {"dense": QUICK})
    monkeypatch.setattr(sync_period, "PERIODS", (2,))
    monkeypatch.setattr(sync_period, "INNER", {"adam": (QUICK.method, (1e-3,))})
    sync_period.write(tmp_path, verbose=0)
    (path,) = tmp_path.iterdir()
    first = load(path)
    assert [record.settings.method.period for record in first] == [None, 2, 1]
    assert [record.is_permutation for record in first] == [False, True, True]
    sync_period.write(tmp_path, verbose=0)
    assert load(path) == first
