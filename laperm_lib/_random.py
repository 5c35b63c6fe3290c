"""Random bits that are the same on every machine, on every backend and with every NumPy.

NumPy guarantees the raw stream of its counter-based Philox generator, but not its distributions, so
everything random here is made from raw 64-bit words.

References:
    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    NumPy, "Compatibility policy" of numpy.random: a BitGenerator's stream does not change.
"""

import hashlib
from typing import Any

import numpy as np

from laperm_lib._arguments import check_integer


def check_seed(seed: Any) -> int:
    """A seed as an int; a ValueError for all but integers of at least 0."""
    return check_integer("A seed", seed, at_least=0)


def raw_bits(seed: int, stream: str) -> np.random.Philox:
    """A generator for one of a seed's independent streams, each named by a text.

    Only its `random_raw` keeps the promise of this module; a `numpy.random.Generator` would not.
    """
    digest = hashlib.sha256(f"{check_seed(seed)}/{stream}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def random_order(count: int, seed: int, stream: str) -> np.ndarray:
    """The numbers 0 to count - 1 in random order, shape (count,), dtype intp."""
    return np.argsort(raw_bits(seed, stream).random_raw(count), kind="stable")
