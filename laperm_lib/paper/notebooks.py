"""What the book's notebooks check before they run.

papermill only warns of a parameter that a notebook does not have, and takes any value. The second
code cell of each notebook, right after its `parameters` cell, therefore calls `check_parameters`.
Nothing here imports Keras, so a mistyped parameter is refused at once.
"""

from collections.abc import Mapping
from typing import Any

PROFILES = ("quick", "paper")
DATASETS = {"quick": "digits", "paper": "mnist"}
"""What the parameter `dataset = "auto"` stands for in each profile."""

_NO_PARAMETERS = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # IPython's own names
_NO_PARAMETERS |= {"DATASETS", "PROFILES", "check_parameters"}  # imported for the check itself


def check_parameters(namespace: Mapping[str, Any], **choices: tuple[Any, ...] | type[int]) -> None:
    """Refuse unknown notebook parameters and impossible values before anything runs.

    Call it with `globals()` in the cell after the `parameters` cell, before anything but the names
    of this module has been defined or imported: every other name is then a parameter.

    Args:
        namespace: the notebook's `globals()`.
        **choices: for each parameter its possible values, or `int` for an integer of at least 0.

    Raises:
        ValueError: names the unknown parameter, or the value and what is possible instead.

    Examples:
        >>> check_parameters({"profile": "quick", "seed": 0}, profile=PROFILES, seed=int)
        >>> check_parameters({"profil": "quick"}, profile=PROFILES)
        Traceback (most recent call last):
        ValueError: Unknown parameter 'profil'; this notebook has: profile.
    """
    names = {name for name in namespace if not name.startswith("_")} - _NO_PARAMETERS
    known = ", ".join(choices)
    for name in sorted(names - choices.keys()):
        raise ValueError(f"Unknown parameter {name!r}; this notebook has: {known}.")
    for name, possible in choices.items():
        if name not in namespace:
            raise ValueError(f"The parameter {name!r} is missing; this notebook has: {known}.")
        value = namespace[name]
        if isinstance(possible, tuple):
            right, wanted = value in possible, f"one of {', '.join(map(repr, possible))}"
        else:
            right, wanted = type(value) is int and value >= 0, "an integer of at least 0"
        if not right:
            raise ValueError(f"{name} is {wanted}, not {value!r}.")
