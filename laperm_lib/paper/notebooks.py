"""What the book's notebooks check before they run.

papermill only warns of a parameter that a notebook does not have, and takes any value. The second
code cell of each notebook, right after its `parameters` cell, therefore calls `check_parameters`.
Nothing here imports Keras, so a mistyped parameter is refused at once.
"""

import ast
import sys
from collections.abc import Mapping
from typing import Any

from laperm_lib.paper import quiet

_PARAMETERS = ("profile", "dataset", "seed")
_PAPERMILL = {"PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH"}  # of its --inject-paths


def check_parameters(
    namespace: Mapping[str, Any], datasets: tuple[str, ...] = ("digits", "mnist")
) -> str:
    """Refuse unknown notebook parameters and impossible values before anything runs.

    A notebook has the parameters `profile`, "quick" or "paper"; `dataset`; and `seed`, an integer
    of at least 0. Call this with `globals()` in the cell after the `parameters` cell. Every other
    name assigned in that cell, or in the one that papermill adds after it, is an unknown parameter;
    what the kernel holds besides does not matter. In a plain script every other name counts.

    From here on, what TensorFlow's compiled code logs is kept out of the notebook.

    Args:
        namespace: the notebook's `globals()`.
        datasets: what `dataset` may be. It may also be "auto", which stands for the first in the
            quick profile and for the second in the paper's. Default: digits and MNIST.

    Returns:
        The dataset.

    Raises:
        ValueError: names the unknown or missing parameter, or the value and what is possible.

    Examples:
        >>> check_parameters({"profile": "paper", "dataset": "auto", "seed": 0})
        'mnist'
        >>> check_parameters({"profile": "quick", "datset": "mnist", "seed": 0})
        Traceback (most recent call last):
        ValueError: Unknown parameter 'datset'; this notebook has: profile, dataset, seed.
    """
    known = ", ".join(_PARAMETERS)
    assigned = _assigned(namespace)
    for name in sorted(assigned.difference(_PARAMETERS)):
        raise ValueError(f"Unknown parameter {name!r}; this notebook has: {known}.")
    for name in _PARAMETERS:
        if name not in assigned or name not in namespace:
            raise ValueError(f"The parameter {name!r} is missing; this notebook has: {known}.")
    profile, dataset, seed = (namespace[name] for name in _PARAMETERS)
    for name, possible in {"profile": ("quick", "paper"), "dataset": ("auto", *datasets)}.items():
        if namespace[name] not in possible:
            one_of = ", ".join(map(repr, possible))
            raise ValueError(f"{name} is one of {one_of}, not {namespace[name]!r}.")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is an integer of at least 0, not {seed!r}.")
    if getattr(_shell(), "kernel", None) is not None:
        quiet.redirect()
    return datasets[profile == "paper"] if dataset == "auto" else str(dataset)


def _shell() -> Any:
    # Not by name from the namespace: a parameter may be called `In` or `get_ipython`.
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _assigned(namespace: Mapping[str, Any]) -> set[str]:
    """The names that the cells with parameters assigned when they were last run.

    Not the names in the namespace, where an earlier run, IPython or a start-up file left others.
    """
    shell = _shell()
    if shell is None or shell.user_ns is not namespace:
        own = {name for name in namespace if name.startswith("__") and name.endswith("__")}
        return set(namespace) - own - {"check_parameters"}
    names: set[str] = set()
    for cell in reversed(shell.history_manager.input_hist_parsed):
        if "check_parameters" in cell:  # it assigns the dataset
            continue
        targets = _targets(cell)
        if cell.lstrip().startswith("# Parameters"):  # papermill's
            names |= targets - _PAPERMILL
        elif len(targets.intersection(_PARAMETERS)) > 1:  # ours, one of them perhaps mistyped
            return names | targets
    return names.union(_PARAMETERS)  # the history has been cleared


def _targets(cell: str) -> set[str]:
    """The names that the statements of a cell assign."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        return set()
    assignments = [s for s in statements if isinstance(s, ast.Assign | ast.AnnAssign)]
    nodes = [node for statement in assignments for node in ast.walk(statement)]
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
