"""A lock keeps other processes out, until it is let go or its process has ended."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from laperm_lib.errors import BusyError, LaPermError
from laperm_lib.paper.locks import locked


@pytest.fixture
def fcntl():
    """What Unix has locks by; on Windows there is none."""
    return pytest.importorskip("fcntl")


def test_a_lock_of_a_file_that_was_deleted_is_none(tmp_path, monkeypatch, fcntl):
    """Whoever has the lock may delete it between another's opening and locking."""
    path, lock, deleted = tmp_path / "new" / "lock", fcntl.flock, []

    def lock_what_is_deleted(descriptor, how):
        if not deleted:
            deleted.append(os.fstat(descriptor).st_ino)
            shutil.rmtree(path.parent)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_what_is_deleted)
    with locked(path):
        monkeypatch.undo()
        with pytest.raises(BusyError), locked(path):
            pass


def test_a_file_system_without_locks_is_named_as_that(tmp_path, monkeypatch, fcntl):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    refused = pytest.raises(LaPermError, match=r"cannot be locked.*No locks")
    with refused as raised, locked(tmp_path / "lock"):
        pass
    assert not isinstance(raised.value, BusyError)


def test_a_lock_keeps_others_out_and_ends_with_a_process_that_is_killed(tmp_path):
    program = """
import sys, time
from pathlib import Path
from laperm_lib.paper.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
    path = tmp_path / "new" / "lock"
    arguments = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BusyError, match="another process"), locked(path):
            pass
        other.kill()
    for _ in range(2):  # and may be taken again once it is let go
        with locked(path), pytest.raises(BusyError), locked(path):
            pass
