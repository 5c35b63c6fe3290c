"""A seeded fuzzer: damaged files, killed trainings, nonsense commands. `make fuzz` runs it.

`run(seed, numbers, folder)` of a part yields what became of cases, each as a `Case`.
"""

import contextlib
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    number: int
    about: str
    outcome: str
    wrong: str  # in words, or ""


class TooSlow(BaseException):
    """Raised by `bounded`; no `except Exception` catches it."""


@contextlib.contextmanager
def bounded(seconds):
    """Raise TooSlow after some seconds and, on Linux, MemoryError beyond a gigabyte more."""

    def late(*_):
        raise TooSlow

    handler, limits = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    others = signal.alarm(seconds)  # pytest-timeout's
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, limits[1]))
    try:
        yield
    finally:
        signal.alarm(others)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
