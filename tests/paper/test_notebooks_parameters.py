"""Unknown notebook parameters and impossible values are refused, before Keras is imported."""

import subprocess
import sys

import pytest

from laperm_lib.paper.notebooks import DATASETS, PROFILES, check_parameters

CHOICES = {"profile": PROFILES, "seed": int}


def test_what_is_right_passes_among_what_ipython_defines():
    namespace = {"profile": "paper", "seed": 3, "In": [], "_": 1, "__name__": "__main__"}
    check_parameters(namespace | {"DATASETS": DATASETS}, **CHOICES)
    assert set(DATASETS) == set(PROFILES)


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


def test_a_mistyped_parameter_is_refused_before_keras_is_imported():
    program = """
profil = "quick"
from laperm_lib.paper.notebooks import PROFILES, check_parameters
try:
    check_parameters(globals(), profile=PROFILES)
except ValueError as error:
    import sys
    print(error, *({"keras", "tensorflow", "numpy"} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "Unknown parameter 'profil'; this notebook has: profile.\n"
