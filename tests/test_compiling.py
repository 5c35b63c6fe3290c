"""Compiled functions do what the plain ones do, and stay as they are without Numba."""

import os
import runpy
import subprocess
import sys
import threading

import numpy as np
import pytest

from laperm_lib import _numba as compiling


def add_up(values):
    total = 0.0
    for value in values:
        total += value
    return total


@pytest.mark.parametrize("options", [{}, {"inline": "always"}])
def test_a_compiled_function_gives_what_the_plain_one_gives(options):
    fast = compiling.compiled(**options)(add_up)
    values = np.arange(5.0)
    assert fast(values) == add_up(values) == 10
    assert fast.py_func is add_up
    assert fast.signatures  # compiled by that call


def test_all_share_the_same_threads():
    threads = compiling.threads()
    assert compiling.threads() is threads
    together = threading.Barrier(compiling.CORES, timeout=10)  # passed only by so many at once
    waiting = [threads.submit(together.wait) for _ in range(compiling.CORES)]
    assert sorted(future.result() for future in waiting) == list(range(compiling.CORES))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_there_are_as_many_threads_as_cores_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert runpy.run_path(compiling.__file__)["CORES"] == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(allowed) == compiling.CORES


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("rows", "weights"), [(1, 10), (5, 10), (5, 10**6), (100, 10**6)])
def test_blocks_hold_every_row_once(workers, rows, weights, monkeypatch):
    monkeypatch.setattr(compiling, "CORES", workers)
    bounds = []
    compiling.in_blocks(lambda *bound: bounds.append(bound), rows, weights)
    assert len(bounds) == (1 if weights == 10 else min(workers, rows))
    assert [row for bound in sorted(bounds) for row in range(*bound)] == list(range(rows))


def test_an_error_in_a_block_is_raised():
    def fail(first, last):
        if first > 0 or compiling.CORES == 1:
            raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        compiling.in_blocks(fail, rows=100, weights=10**6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own():
    script = """
import os, signal
from laperm_lib import _numba as compiling
compiling.CORES = 2

def work(first, last):
    pass

compiling.in_blocks(work, 2, 10**6)
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that waits for ever
    compiling.in_blocks(work, 2, 10**6)
    os._exit(0)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
