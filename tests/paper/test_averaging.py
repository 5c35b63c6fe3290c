"""The study of weight averages: trainings and their records."""

from dataclasses import replace

import pytest

from laperm_lib import LaPermError
from laperm_lib.paper.studies import averaging
from laperm_lib.paper.studies.averaging import METHODS, methods, run, write
from laperm_lib.paper.studies.averaging_results import SETTINGS, Settings, load, save


def shortened(name, **changes):
    settings = SETTINGS[name]
    return replace(settings, training=replace(settings.training, epochs=2, **changes))


SHORT = shortened("digits_adam")
LAPERM = shortened("digits_laperm", evaluate_every=20)
LAPERM = replace(LAPERM, window=2)


@pytest.fixture(scope="module")
def alone():
    return run(SHORT, seed=3)


@pytest.fixture(scope="module")
def permuted():
    return {method: run(LAPERM, seed=3, method=method) for method in METHODS[:3]}


def test_averages_are_measured_beside_the_training(alone):
    assert alone.steps == (20, 40)
    assert set(alone.curves) == {"training", "PWALKS", "PSWM", "SWA"}
    assert [len(curve) for curve in alone.curves.values()] == [2] * 4
    assert alone.curves["SWA"][0] is None  # it begins in the middle
    assert alone.curves["SWA"][1] == alone.curves["PWALKS"][1]  # of the same ten samples
    assert alone.permutation == {}
    assert all(0.2 < accuracy <= 1 for accuracy in alone.test.values())


def test_the_same_seed_gives_the_same_result(alone):
    again = run(SHORT, seed=3)
    assert replace(again, seconds=alone.seconds) == alone
    assert run(SHORT, seed=4).curves != alone.curves


@pytest.mark.parametrize("method", ["PSWA", "Lookahead"])
def test_trainings_that_go_on_from_averages(alone, method):
    result = run(SHORT, seed=3, method=method)
    assert set(result.curves) == {"training"}
    # Up to the first average they are the same: that is the one that PWALKS has there.
    is_first_average = result.curves["training"][0] == alone.curves["PWALKS"][0]
    assert is_first_average == (method == "PSWA")


def test_averages_of_permutations_are_permutations_once_synchronised(permuted):
    for method, result in permuted.items():
        for name, is_permutation in result.permutation.items():
            in_training = name == "training" and method != "PSWA"
            assert is_permutation == (in_training or name.endswith("synchronised")), (method, name)
            assert (result.spread[name] == 1) >= is_permutation
    assert set(permuted["PSWA"].curves) == {"training", "training synchronised"}
    # The two go different ways only behind the first average.
    one, other = permuted["PSWA"].curves, permuted["PSWA synchronised"].curves
    assert one["training synchronised"][0] == other["training"][0]
    assert other["training"][0] == permuted["alone"].curves["PWALKS synchronised"][0]


def test_results_are_kept_and_read(alone, permuted, tmp_path):
    results = (alone, *permuted.values())
    save(results, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == results


def test_a_study_is_taken_up_where_it_was_cut(alone, tmp_path, monkeypatch):
    trained = []

    def note(settings, *, seed, method, **_):
        trained.append((seed, method))
        return replace(alone, settings=settings, seed=seed, method=method)

    monkeypatch.setattr(averaging, "run", note)
    monkeypatch.setitem(SETTINGS, "digits_adam", SHORT)
    write(tmp_path, ["digits_adam"], seeds=[0])
    write(tmp_path, ["digits_adam"], seeds=[0, 1])
    once = ["alone", "PSWA", "Lookahead"]
    assert trained == [(seed, method) for seed in (0, 1) for method in once]
    assert len(load(tmp_path / "digits_adam.json")) == 6
    monkeypatch.setitem(SETTINGS, "digits_adam", shortened("digits_adam", held_out=100))
    with pytest.raises(LaPermError, match="other settings"):
        write(tmp_path, ["digits_adam"])


def test_methods_with_and_without_laperm():
    assert methods(LAPERM) == METHODS[:3]
    assert methods(SHORT) == ("alone", "PSWA", "Lookahead")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adagrad"}, "optimizer is one of"),
        ({"sample_period": 3}, "no multiple of sample_period=3"),
        ({"lookahead_period": 0}, "lookahead_period is an integer of at least 1"),
        ({"training": replace(SHORT.training, held_out=0)}, "none are"),
        ({"training": replace(SHORT.training, sync_period=7)}, "no multiple of sync_period=7"),
    ],
)
def test_impossible_settings(changes, message):
    values = {name: getattr(SHORT, name) for name in SHORT.__dataclass_fields__} | changes
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_impossible_runs_and_files(tmp_path):
    with pytest.raises(ValueError, match="method is one of alone, PSWA"):
        run(SHORT, seed=0, method="SWA")
    with pytest.raises(ValueError, match="Only a model that LaPerm trains"):
        run(SHORT, seed=0, method="PSWA synchronised")
    with pytest.raises(LaPermError, match="no such file"):
        load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('[{"settings": 1}]')
    with pytest.raises(LaPermError, match="does not hold results of averages"):
        load(tmp_path / "other.json")
