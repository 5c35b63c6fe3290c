"""The grid of sync periods and rates, and how far weights travel in a period."""

from dataclasses import replace

from short_runs import made

from laperm_lib.paper.benchmark import steps
from laperm_lib.paper.methods import SGD, LaPerm
from laperm_lib.paper.records import load
from laperm_lib.paper.studies import sync_period

QUICK = sync_period.SETTINGS["dense"].replace(dataset="digits", held_out=200, epochs=2)


def test_the_grid_has_every_pair_once_and_the_inner_method_alone():
    for network in sync_period.SETTINGS:
        for inner, (method, rates) in sync_period.INNER.items():
            found = list(sync_period.grid(network, inner))
            periods = [k for k in sync_period.PERIODS if k <= steps(found[0])]
            assert len(set(found)) == len(found) == (len(periods) + 2) * len(rates)
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
    table = sync_period.accuracies(first)
    assert list(table.index) == ["alone", "2", "latent"]
    assert table.loc["2", 1e-3] == first[1].final_held_out


def test_what_is_lost_against_the_best_period_at_the_same_rate():
    def trained(period, rate, accuracy, travel=1.0, latent=False):
        method = LaPerm(sync_period=period, latent_weights=latent)
        settings = QUICK.replace(method=method, learning_rate=rate)
        record = made("f1", final=0.1)
        measured = {"travel": travel}
        return replace(record, settings=settings, final_held_out=accuracy, measured=measured)

    records = [
        trained(1, 0.1, 0.9, travel=None),
        trained(5, 0.1, 0.7),
        trained(5, 0.2, 0.6, travel=2.0),
        trained(10, 0.2, float("nan")),
        trained(1, 0.2, 0.99, latent=True),
        replace(made("f1_adam"), final_held_out=0.99),
    ]
    table = sync_period.lost(records)
    assert table["period"].tolist() == [5, 5]
    assert table["travel"].tolist() == [1, 2]
    assert table["lost"].round(9).tolist() == [0.2, 0]


def test_the_first_synchronised_network_that_is_good_enough():
    record = sync_period.train(
        QUICK.replace(method=LaPerm(sync_period=3), epochs=8, evaluate_every=10), seed=0
    )
    held_out = {e.step / 10: e.held_out for e in record.evaluations}  # 1237 images, 10 steps
    for accuracy in (0.0, 0.3, 0.6, max(held_out.values())):
        expected = min(epoch for epoch, found in held_out.items() if found >= accuracy)
        assert sync_period.epochs_to(record, accuracy) == expected
    assert sync_period.epochs_to(record, 1.01) is None
