"""Arguments refused early, with words that name the argument and say what is possible."""

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Give a finite number within limits back as a float.

    Args:
        name: what the argument is called.
        value: what was given for it.
        above: it must be larger. Default: no limit, like the others.
        at_least: it must be as large.
        below: it must be smaller.
        at_most: it must be as small.

    Raises:
        ValueError: if it is no such number.

    Examples:
        >>> check_number("momentum", 0.5, at_least=0, below=1)
        0.5
        >>> check_number("momentum", 1, at_least=0, below=1)
        Traceback (most recent call last):
        ValueError: momentum is a number at least 0 and below 1, got 1.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and above < value < below and at_least <= value <= at_most:
        return float(value)
    limits = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    words = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
    wanted = f"number {' and '.join(words)}" if words else "finite number"
    raise ValueError(f"{name} is a {wanted}, got {value!r}.")


def check_integer(name: str, value: Any, *, at_least: int) -> int:
    """Give an integer that is large enough back as an int.

    Raises:
        ValueError: if it is no such integer.

    Examples:
        >>> check_integer("steps", 3, at_least=1)
        3
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_integer and value >= at_least:
        return int(value)
    raise ValueError(f"{name} is an integer of at least {at_least}, got {value!r}.")


def check_patterns(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Give regular expressions back as a tuple; a text alone is one of them.

    Raises:
        ValueError: if one is no regular expression.

    Examples:
        >>> check_patterns("exclude", "dense")
        ('dense',)
    """
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in found:
        try:
            re.compile(pattern)
        except (re.error, TypeError):
            raise ValueError(f"{name} takes regular expressions, got {pattern!r}.") from None
    return found
