"""Compiled functions and the threads that share their work."""

import os
import runpy
import subprocess
import sys
import threading
from unittest.mock import Mock

import numpy as np
import pytest

from laperm_lib import _numba
from laperm_lib.synchronisation import sorting


def test_all_share_the_same_threads():
    threads = _numba.threads()
    assert _numba.threads() is threads
    together = threading.Barrier(_numba.CORES, timeout=10)  # passed only by so many at once
    waiting = [threads.submit(together.wait) for _ in range(_numba.CORES)]
    assert sorted(future.result() for future in waiting) == list(range(_numba.CORES))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_there_are_as_many_threads_as_cores_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert runpy.run_path(_numba.__file__)["CORES"] == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(allowed) == _numba.CORES


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize(
    ("shapes", "blocks"),
    [
        ([(1, 10)], 1),
        ([(5, 10)], 1),  # too few weights for two threads
        ([(5, 1000)], 5),
        ([(10**5, 9)], 16),  # for each core
        ([(3, 10), (10, 1000), (7, 0)], 12),
    ],
)
def test_blocks_hold_every_row_once(cores, shapes, blocks, monkeypatch):
    monkeypatch.setattr(_numba, "CORES", cores)
    done = []
    _numba.in_blocks(lambda *block: done.append(block), shapes, least=1000)
    assert len(done) == (cores * blocks if blocks == 16 else blocks)
    rows = [(number, row) for number, *bounds in sorted(done) for row in range(*bounds)]
    assert rows == [
        (number, row) for number, (count, _) in enumerate(shapes) for row in range(count)
    ]


def test_an_error_in_a_block_is_raised():
    def fail(number, first, last):
        if last == 100:
            raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        _numba.in_blocks(fail, [(100, 10**4)], least=1000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own():
    script = """
import os, signal
from laperm_lib import _numba
from laperm_lib.synchronisation import sorting

def work(number, first, last):
    pass

_numba.in_blocks(work, [(2, 10**6)], least=1)
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that waits for ever
    _numba.in_blocks(work, [(2, 10**6)], least=1)
    os._exit(0)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_no_cache_can_be_written_functions_are_compiled_without(monkeypatch, caplog):
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=PermissionError))  # Numba tries
    caplog.set_level("INFO", logger="laperm_lib")
    _numba._say_that_nothing_is_cached.cache_clear()
    module = runpy.run_path(sorting.__file__)
    assert module["is_finite"](np.zeros(2, np.int32))
    assert module["is_finite"].signatures
    assert ["NUMBA_CACHE_DIR" in said for said in caplog.messages] == [True]  # for all functions
