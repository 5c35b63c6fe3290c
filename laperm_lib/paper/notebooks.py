"""What the book's notebooks check before they run.

papermill only warns of a parameter that a notebook does not have, and takes any value. The second
code cell of each notebook, right after its `parameters` cell, therefore calls `check_parameters`.
Nothing here imports Keras, so a mistyped parameter is refused at once.
"""

from collections.abc import Mapping
from typing import Any

_PARAMETERS = ("profile", "dataset", "seed")
_OTHERS = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # IPython's own names
_OTHERS |= {"check_parameters"}  # imported for the check itself


def check_parameters(
    namespace: Mapping[str, Any], datasets: tuple[str, ...] = ("digits", "mnist")
) -> str:
    """Refuse unknown notebook parameters and impossible values before anything runs.

    A notebook has the parameters `profile`, "quick" or "paper"; `dataset`; and `seed`, an integer
    of at least 0. Call this with `globals()` in the cell after the `parameters` cell, before
    anything else has been defined or imported: every other name is then an unknown parameter.

    Args:
        namespace: the notebook's `globals()`.
        datasets: what `dataset` may be. It may also be "auto", which stands for the first in the
            quick profile and for the second in the paper's. Default: digits and MNIST.

    Returns:
        The dataset.

    Raises:
        ValueError: names the unknown parameter, or the value and what is possible instead.

    Examples:
        >>> check_parameters({"profile": "paper", "dataset": "auto", "seed": 0})
        'mnist'
        >>> check_parameters({"profile": "quick", "datset": "mnist", "seed": 0})
        Traceback (most recent call last):
        ValueError: Unknown parameter 'datset'; this notebook has: profile, dataset, seed.
    """
    known = ", ".join(_PARAMETERS)
    names = {name for name in namespace if not name.startswith("_")} - _OTHERS
    for name in sorted(names.difference(_PARAMETERS)):
        raise ValueError(f"Unknown parameter {name!r}; this notebook has: {known}.")
    for name in _PARAMETERS:
        if name not in namespace:
            raise ValueError(f"The parameter {name!r} is missing; this notebook has: {known}.")
    profile, dataset, seed = (namespace[name] for name in _PARAMETERS)
    for name, possible in {"profile": ("quick", "paper"), "dataset": ("auto", *datasets)}.items():
        if namespace[name] not in possible:
            one_of = ", ".join(map(repr, possible))
            raise ValueError(f"{name} is one of {one_of}, not {namespace[name]!r}.")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is an integer of at least 0, not {seed!r}.")
    return datasets[profile == "paper"] if dataset == "auto" else str(dataset)
