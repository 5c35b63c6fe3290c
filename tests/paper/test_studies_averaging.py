"""The study of weight averages: its trainings, its records, and what is measured of curves."""

from dataclasses import replace

import numpy as np
import pytest
from short_runs import made

from laperm_lib import LaPermError
from laperm_lib.paper import records
from laperm_lib.paper.studies import averaging
from laperm_lib.paper.studies.averaging import METHODS, SETTINGS, measures, train, with_method

SHORT = SETTINGS["digits_adam"].replace(epochs=2)
LAPERM = SETTINGS["digits_laperm"].replace(epochs=2, evaluate_every=20, sync_period=2)


@pytest.fixture(scope="module")
def alone():
    return train(SHORT, 3)


def test_averages_are_measured_beside_the_training(alone):
    measured = alone.measured
    assert measured["steps"] == [20, 40] == [each.step for each in alone.evaluations]
    curves = measured["curves"]
    assert set(curves) == {"training", "PWALKS", "PSWM", "SWA"}
    assert curves["training"] == [each.held_out for each in alone.evaluations]
    assert curves["SWA"][0] is None  # it begins half-way
    assert curves["SWA"][1] == curves["PWALKS"][1]  # of the same ten samples
    assert measured["test"]["training"] == alone.final
    assert measured["permutation"] == {}
    assert all(0.2 < accuracy <= 1 for accuracy in measured["test"].values())


@pytest.mark.parametrize("method", ["PSWA", "Lookahead"])
def test_trainings_that_continue_from_averages(alone, method):
    curves = train(with_method(SHORT, method), 3).measured["curves"]
    assert set(curves) == {"training"}
    # Up to the first average they are the same: it is the one that PWALKS has there.
    is_first_average = curves["training"][0] == alone.measured["curves"]["PWALKS"][0]
    assert is_first_average == (method == "PSWA")


def test_averages_of_permutations_are_permutations_once_synchronised():
    permuted = {method: train(with_method(LAPERM, method), 3) for method in METHODS[:3]}
    for method, record in permuted.items():
        for name, is_permutation in record.measured["permutation"].items():
            in_training = name == "training" and method != "PSWA"
            assert is_permutation == (in_training or name.endswith("synchronised")), (method, name)
            assert (record.measured["relative_std"][name] == 1) >= is_permutation
    curves = {method: record.measured["curves"] for method, record in permuted.items()}
    assert set(curves["PSWA"]) == {"training", "training synchronised"}
    # The two part only after the first average.
    first = curves["PSWA synchronised"]["training"][0]
    assert curves["PSWA"]["training synchronised"][0] == first
    # PWALKS sums the same ten samples in another order: an image of 437 may tip.
    assert curves["alone"]["PWALKS synchronised"][0] == pytest.approx(first, abs=0.005)
    assert "PWALKS between" in curves["alone"]


def test_a_method_is_part_of_the_settings():
    assert averaging.methods(LAPERM) == METHODS[:3]
    assert averaging.methods(SHORT) == ("alone", "PSWA", "Lookahead")
    assert [averaging.method_of(with_method(LAPERM, method)) for method in METHODS] == list(METHODS)


def test_records_are_read_as_written_and_only_what_is_missing_is_trained(
    alone, tmp_path, monkeypatch
):
    def trained(settings, seed, *, experiment, data_dir):
        return replace(alone, settings=settings, seed=seed, experiment=experiment)

    monkeypatch.setattr(averaging, "train", trained)
    monkeypatch.setitem(SETTINGS, "digits_adam", SHORT)
    averaging.write(tmp_path, ["digits_adam"], seeds=[0])
    averaging.write(tmp_path, ["digits_adam"], seeds=[0, 1])
    found = records.load(tmp_path / "digits_adam.json")
    once = ["alone", "PSWA", "Lookahead"]
    trained = [(record.seed, averaging.method_of(record.settings)) for record in found]
    assert trained == [(seed, method) for seed in (0, 1) for method in once]
    assert found[0] == replace(alone, seed=0, experiment="digits_adam")
    monkeypatch.setitem(SETTINGS, "digits_adam", SHORT.replace(held_out=100))
    with pytest.raises(LaPermError, match="other settings"):
        averaging.write(tmp_path, ["digits_adam"])


def test_what_no_study_could_be_is_refused():
    with pytest.raises(ValueError, match="Unknown method 'SWA'; there are alone, PSWA"):
        with_method(SHORT, "SWA")
    with pytest.raises(ValueError, match="held out; none are"):
        train(SHORT.replace(held_out=0), 0)
    with pytest.raises(ValueError, match="no multiple of the sync period 7"):
        train(LAPERM.replace(sync_period=7), 0)
    with pytest.raises(ValueError, match="Only a model that LaPerm trains"):
        train(with_method(SHORT, "PSWA synchronised"), 0)


CURVE = (0.5, 0.7, 0.6, 0.8, 0.9, 0.7)
BEGUN = (None, None, None, 0.8, 0.8, 0.9)


def record(seed, test, curves=None, method="alone"):
    measured = {"curves": curves or {"training": CURVE, "SWA": BEGUN}, "test": test}
    return replace(made("f1"), settings=with_method(LAPERM, method), seed=seed, measured=measured)


STUDY = [record(1, {"training": 0.7, "SWA": 0.9}), record(0, {"training": 0.6, "SWA": 0.8})]


def test_measures_of_curves_and_comparisons():
    found = measures(STUDY)
    assert {seed: one.test for seed, one in found["alone"].items()} == {1: 0.7, 0: 0.6}
    one, swa = found["alone"][0], found["SWA"][0]
    assert one.mean == pytest.approx(0.7)
    # Changes 0.2, -0.1, 0.2, 0.1, -0.2, of mean 0.04.
    assert one.volatility == pytest.approx(np.sqrt(0.132 / 5))
    assert one.late_volatility == pytest.approx(0.15)  # 0.1, -0.2
    assert one.monotonicity == 0.6
    assert swa.volatility == swa.late_volatility == pytest.approx(0.05)
    assert swa.monotonicity == 1
    curves = {"training": CURVE, "training synchronised": CURVE}
    records = [record(0, dict.fromkeys(curves, 0.5), curves, method) for method in METHODS[1:3]]
    assert {"PSWA", "PSWA synchronised", "PSWA, going on synchronised"} <= set(measures(records))

    def all_pairs(*pairs):
        return dict.fromkeys(averaging.BETTER, pairs)

    assert averaging.compare([STUDY], "alone") == all_pairs(0, 2) | {"as monotonic": (2, 2)}
    assert averaging.compare([STUDY, STUDY[:1]], "SWA") == all_pairs(3, 3)
    assert averaging.compare([], "SWA") == all_pairs(0, 0)
    assert [averaging.verdict(better, 4) for better in range(5)] == ["[¬Re]"] * 3 + ["[Re]"] * 2
    assert averaging.verdict(5, 8) == "mixed"
    with pytest.raises(ValueError, match="no pair"):
        averaging.verdict(0, 0)
