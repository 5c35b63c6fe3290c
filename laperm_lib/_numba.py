"""Functions compiled by Numba, and the threads that share their work."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

_WORTH_A_THREAD = 4096  # With fewer weights than this, handing them to a thread takes longer.

# Not all of the machine's: a job on a cluster may be held to a few of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""How many threads work at once, as many as there are cores that this process may use."""


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Decorate a function: compiled when first called, or read from Numba's cache beside its file.

    It does not hold Python's lock, and divides as NumPy does. Importing Numba takes a second, so
    modules with such functions are imported by the functions that call them.
    """
    from numba import njit

    return njit(cache=True, nogil=True, error_model="numpy", **options)


@cache
def threads() -> ThreadPoolExecutor:
    """The threads that share the work of compiled functions, `CORES` of them."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="laperm")


if hasattr(os, "register_at_fork"):  # a child process has none of its parent's threads
    os.register_at_fork(after_in_child=threads.cache_clear)


def in_blocks(work: Callable[[int, int], None], rows: int, weights: int) -> None:
    """Share the rows of a matrix that holds so many weights among the threads.

    `work` is called with the first row and the one after the last; it does not hold Python's lock.
    """
    blocks = max(1, min(CORES, rows, weights // _WORTH_A_THREAD))
    bounds = [rows * i // blocks for i in range(blocks + 1)]
    others = [threads().submit(work, *bound) for bound in pairwise(bounds[1:])]
    work(*bounds[:2])
    for each in others:
        each.result()
