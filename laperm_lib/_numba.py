"""Functions compiled by Numba, and the threads that share their work."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

_log = logging.getLogger(__name__)
_BLOCKS_PER_CORE = 16  # so that no thread waits long for the last block of another

# Not all of the machine's: a job on a cluster may be held to a few of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""How many threads work at once, as many as there are cores that this process may use."""


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Decorate a function: compiled when first called, or read from Numba's cache beside its file.

    Importing Numba takes a second: modules with such functions are imported where they are called.
    """
    from numba import njit

    options |= {"nogil": True, "error_model": "numpy"}

    def decorate(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder that could hold the cache
            _say_that_nothing_is_cached()
            return njit(**options)(function)

    return decorate


@cache  # once is enough
def _say_that_nothing_is_cached() -> None:
    _log.info(
        "Neither the folder of laperm_lib nor HOME can be written, so each process compiles its "
        "functions again. To keep them, set NUMBA_CACHE_DIR to a folder that can be written."
    )


@cache
def threads() -> ThreadPoolExecutor:
    """The threads that share the work of compiled functions, `CORES` of them."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="laperm")


if hasattr(os, "register_at_fork"):  # a child process has none of its parent's threads
    os.register_at_fork(after_in_child=threads.cache_clear)


def in_blocks(
    work: Callable[[int, int, int], None], shapes: Sequence[tuple[int, int]], *, least: int
) -> None:
    """Call `work(number, first, last)` for blocks of the rows of matrices, on all threads.

    `shapes` are (rows, weights in a row). Fewer than `least` weights are not worth a thread.
    """
    blocks = []
    least = max(least, sum(map(math.prod, shapes)) // (_BLOCKS_PER_CORE * CORES))
    for number, (rows, length) in enumerate(shapes):
        count = max(1, min(rows, rows * length // least))
        bounds = [rows * i // count for i in range(count + 1)]
        blocks += [(number, *bound) for bound in pairwise(bounds)]
    if len(blocks) == 1:
        work(*blocks[0])
    else:
        list(threads().map(work, *zip(*blocks, strict=True)))  # raises what one of them raised
