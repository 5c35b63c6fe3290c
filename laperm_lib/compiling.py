"""Functions compiled by Numba, which is optional (`pip install "laperm-lib[fast]"`)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

CORES = os.cpu_count() or 1
"""How many threads work at once."""

available = find_spec("numba") is not None
"""Whether Numba is installed."""


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Decorate a function: compiled when first called, or read from a cache of Numba's.

    It does not hold Python's lock, and divides as NumPy does. Without Numba the function stays as
    it is.

    Args:
        **options: more of `numba.njit`, such as `inline="always"`.

    Examples:
        A function in a file, for its cache lies beside the file::

            @compiled(inline="always")
            def twice(x):
                return x + x
    """
    if not available:
        return lambda function: function
    from numba import njit

    return njit(cache=True, nogil=True, error_model="numpy", **options)


@cache
def threads() -> ThreadPoolExecutor:
    """The threads that share the work of compiled functions, `CORES` of them."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="laperm")
