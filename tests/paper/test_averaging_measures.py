"""What is measured of weight averages, on curves that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.paper.studies.averaging_measures import (
    BETTER,
    compare,
    compare_all,
    measures,
    monotonicity,
    verdict,
    volatility,
)
from laperm_lib.paper.studies.averaging_results import SETTINGS, Result

CURVE = (0.5, 0.7, 0.6, 0.8, 0.9, 0.7)
BEGUN = (None, None, None, 0.8, 0.8, 0.9)


def result(seed, test, curves=None, method="alone"):
    curves = curves or {"training": CURVE, "SWA": BEGUN}
    return Result(
        settings=SETTINGS["digits_laperm"],
        method=method,
        seed=seed,
        steps=tuple(range(len(CURVE))),
        curves=curves,
        test=test,
        permutation={},
        spread={},
        seconds=1.0,
        data_fingerprint="",
        environment={},
    )


@given(st.lists(st.floats(0, 1), min_size=2))
def test_measures_of_a_curve(curve):
    changes = [later - earlier for earlier, later in itertools.pairwise(curve)]
    mean = sum(changes) / len(changes)
    variance = sum((change - mean) ** 2 for change in changes) / len(changes)
    assert volatility(curve) ** 2 == pytest.approx(variance, abs=1e-9)
    assert monotonicity(curve) == sum(change >= 0 for change in changes) / len(changes)
    assert monotonicity(np.sort(curve)) == 1


STUDY = [
    result(1, {"training": 0.7, "SWA": 0.9}),
    result(0, {"training": 0.6, "SWA": 0.8}),
]


def test_measures_of_a_study():
    found = measures(STUDY)
    assert {seed: one.test for seed, one in found["alone"].items()} == {1: 0.7, 0: 0.6}
    one, swa = found["alone"][0], found["SWA"][0]
    assert one.mean == pytest.approx(np.mean(CURVE))
    assert one.volatility == volatility(CURVE)
    assert one.late_volatility == volatility((0.8, 0.9, 0.7))
    assert one.monotonicity == monotonicity(CURVE) == 0.6
    assert swa.volatility == swa.late_volatility == volatility((0.8, 0.8, 0.9))


def test_trainings_that_go_on_from_averages_have_names_of_their_own():
    curves = {"training": CURVE, "training synchronised": CURVE}
    test = dict.fromkeys(curves, 0.5)
    methods = ("PSWA", "PSWA synchronised")
    found = measures([result(0, test, curves, method) for method in methods])
    assert {"PSWA", "PSWA synchronised", "PSWA, going on synchronised"} <= set(found)


def test_comparisons_count_seeds():
    never = dict.fromkeys(BETTER, (0, 2))
    assert compare(STUDY, "alone") == never | {"as monotonic": (2, 2)}
    assert compare(STUDY, "SWA") == dict.fromkeys(BETTER, (2, 2))
    assert compare_all([STUDY, STUDY[:1]], "SWA") == dict.fromkeys(BETTER, (3, 3))
    assert compare_all([], "SWA") == dict.fromkeys(BETTER, (0, 0))


def test_no_verdict_without_trainings():
    with pytest.raises(ValueError, match="no pair"):
        verdict(0, 0)
