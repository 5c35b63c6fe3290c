"""Compiled functions do what the plain ones do, and stay as they are without Numba."""

import threading

import numpy as np
import pytest

from laperm_lib import compiling


def add_up(values):
    total = 0.0
    for value in values:
        total += value
    return total


@pytest.mark.skipif(not compiling.available, reason="needs Numba")
@pytest.mark.parametrize("options", [{}, {"inline": "always"}])
def test_a_compiled_function_gives_what_the_plain_one_gives(options):
    fast = compiling.compiled(**options)(add_up)
    values = np.arange(5.0)
    assert fast(values) == add_up(values) == 10
    assert fast.py_func is add_up
    assert fast.signatures  # compiled by that call


def test_without_numba_a_function_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(compiling, "available", False)
    assert compiling.compiled(inline="always")(add_up) is add_up


def test_all_share_the_same_threads():
    threads = compiling.threads()
    assert compiling.threads() is threads
    together = threading.Barrier(compiling.CORES, timeout=10)  # passed only by so many at once
    waiting = [threads.submit(together.wait) for _ in range(compiling.CORES)]
    assert sorted(future.result() for future in waiting) == list(range(compiling.CORES))
