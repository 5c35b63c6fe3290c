"""Arguments refused early, with words that name the argument and say what is possible."""

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

import numpy as np


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """A finite number within limits as a float; a ValueError for anything else."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) + 0.0 if is_number else math.nan  # -0 becomes 0
    except OverflowError:
        number = math.nan
    if above < number < below and at_least <= number <= at_most:
        return number
    limits = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    words = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
    wanted = f"number {' and '.join(words)}" if words else "finite number"
    raise ValueError(f"{name} is a {wanted}, got {value!r}.")


def check_integer(name: str, value: Any, *, at_least: int, at_most: float = math.inf) -> int:
    """An integer within limits as an int; a ValueError for anything else."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_integer and at_least <= value <= at_most:
        return int(value)
    limits = f"{at_least}" if at_most == math.inf else f"{at_least} and at most {at_most}"
    raise ValueError(f"{name} is an integer of at least {limits}, got {value!r}.")


def check_bool(name: str, value: Any) -> bool:
    """True or False as a bool; a ValueError for anything else, such as "no"."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name} is True or False, got {value!r}.")


def check_name(name: str, value: Any, known: Iterable[str]) -> None:
    """A ValueError for anything but one of the names that are known."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"Unknown {name} {value!r}; there are {', '.join(known)}.")


def check_patterns(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Regular expressions as a tuple, also a single one; a ValueError for anything else."""
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in found:
        try:
            re.compile(pattern)
        except (re.error, TypeError):
            raise ValueError(f"{name} takes regular expressions, got {pattern!r}.") from None
    return found
