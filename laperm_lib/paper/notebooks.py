"""What the book's notebooks check before they run.

papermill only warns of a parameter that a notebook does not have, and takes any value. The second
code cell of each notebook, right behind its `parameters` cell, therefore calls `check_parameters`.
"""

from collections.abc import Mapping
from typing import Any

PROFILES = ("quick", "paper")
DATASETS = {"quick": "digits", "paper": "mnist"}
"""What the parameter `dataset = "auto"` stands for in each profile."""

_NO_PARAMETERS = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # IPython's own names
_NO_PARAMETERS |= {"DATASETS", "PROFILES", "check_parameters"}  # imported for the check itself


def check_parameters(namespace: Mapping[str, Any], **choices: tuple[Any, ...] | type) -> None:
    """Refuse unknown notebook parameters and impossible values before anything runs.

    Call it with `globals()` in the cell behind the `parameters` cell, before anything but the names
    of this module has been defined or imported: every other name is then a parameter.

    Args:
        namespace: the notebook's `globals()`.
        **choices: for each parameter its possible values, or its type; an `int` parameter must be
            at least 0.

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
            if value not in possible:
                wanted = ", ".join(map(repr, possible))
                raise ValueError(f"{name} is one of {wanted}, not {value!r}.")
        elif type(value) is not possible or (isinstance(value, int) and value < 0):
            wanted = "an integer of at least 0" if possible is int else f"a {possible.__name__}"
            raise ValueError(f"{name} is {wanted}, not {value!r}.")
