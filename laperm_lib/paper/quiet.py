"""Keeps what TensorFlow's compiled code logs out of terminals and notebooks.

It writes lines about oneDNN and absl to file descriptor 2, two at least whatever its settings are.
Python's messages, warnings and errors among them, are written where they always were, but for
TensorFlow's warnings: it has many of tracing a second network in one process.
"""

import atexit
import logging
import os
import sys
import tempfile
from contextlib import suppress
from functools import cache


@cache
def redirect() -> str:
    """Send file descriptor 2 to a file from now on, and return its path; it is deleted at exit."""
    # Not by its level, which TensorFlow sets when it is imported.
    logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.ERROR)
    number, path = tempfile.mkstemp(prefix="laperm_lib-", suffix=".log")
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:  # not in a kernel
        sys.stderr.flush()
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = open(os.dup(2), "w", 1, encoding=encoding, errors=errors)  # noqa: SIM115
    os.dup2(number, 2)
    os.close(number)
    atexit.register(delete, path, os.getpid())
    return path


def delete(path: str, process: int) -> None:
    """Delete the file, but not in the processes that were forked from this one."""
    if os.getpid() == process:
        with suppress(OSError):
            os.remove(path)
