"""Unknown notebook parameters and impossible values are refused, before Keras is imported."""

import subprocess
import sys

import pytest

from laperm_lib.paper.notebooks import check_parameters

GIVEN = {"profile": "quick", "dataset": "auto", "seed": 3}


@pytest.mark.parametrize(
    ("changed", "dataset"),
    [
        ({}, "digits"),
        ({"profile": "paper"}, "cifar10"),
        ({"dataset": "mnist"}, "mnist"),
        ({"profile": "paper", "dataset": "digits"}, "digits"),
    ],
)
def test_the_profile_decides_on_the_dataset_that_nobody_names(changed, dataset):
    of_ipython = {"In": [], "_": 1, "__name__": "__main__"}
    datasets = ("digits", "cifar10", "mnist")
    assert check_parameters(GIVEN | of_ipython | changed, datasets) == dataset


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        (GIVEN | {"sede": 1}, "Unknown parameter 'sede'.*profile, dataset, seed"),
        ({"profile": "quick", "dataset": "auto"}, "'seed' is missing"),
        (GIVEN | {"profile": "slow"}, "profile is one of 'quick', 'paper', not 'slow'"),
        (GIVEN | {"dataset": 1}, "dataset is one of 'auto', 'digits', 'mnist', not 1"),
        (GIVEN | {"seed": -1}, "seed is an integer of at least 0, not -1"),
        (GIVEN | {"seed": True}, "seed is an integer"),
        (GIVEN | {"seed": "1"}, "seed is an integer"),
        (GIVEN | {"seed": 1.0}, "seed is an integer"),
    ],
)
def test_what_is_wrong_is_named(namespace, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(namespace)


def test_a_mistyped_parameter_is_refused_before_keras_is_imported():
    program = """
profil = "quick"
from laperm_lib.paper.notebooks import check_parameters
try:
    check_parameters(globals())
except ValueError as error:
    import sys
    print(error, *({"keras", "tensorflow", "numpy"} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == (
        "Unknown parameter 'profil'; this notebook has: profile, dataset, seed.\n"
    )
