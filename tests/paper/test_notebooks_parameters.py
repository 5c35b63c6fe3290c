"""Unknown notebook parameters and impossible values are refused."""

import pytest

from laperm_lib.paper.notebooks import DATASETS, PROFILES, check_parameters

CHOICES = {"profile": PROFILES, "seed": int}


def test_what_is_right_passes_among_what_ipython_defines():
    namespace = {"profile": "paper", "seed": 3, "In": [], "_": 1, "__name__": "__main__"}
    check_parameters(namespace, **CHOICES)


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ({"profile": "quick", "seed": 0, "sede": 1}, "Unknown parameter 'sede'.*profile, seed"),
        ({"profile": "quick"}, "'seed' is missing"),
        ({"profile": "slow", "seed": 0}, "profile is one of 'quick', 'paper', not 'slow'"),
        ({"profile": "quick", "seed": -1}, "seed is an integer of at least 0, not -1"),
        ({"profile": "quick", "seed": True}, "seed is an integer"),
        ({"profile": "quick", "seed": "1"}, "seed is an integer"),
        ({"profile": "quick", "seed": 1.0}, "seed is an integer"),
    ],
)
def test_what_is_wrong_is_named(namespace, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(namespace, **CHOICES)


def test_every_profile_has_a_dataset_of_its_own():
    assert set(DATASETS) == set(PROFILES)
    check_parameters({"DATASETS": DATASETS, "profile": "quick", "seed": 0}, **CHOICES)
