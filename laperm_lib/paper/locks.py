"""Locks between processes, so that no two train the same run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laperm_lib.errors import BusyError, LaPermError
from laperm_lib.paper._extras import extra

with extra("paper"):
    from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path, *, wait: float = 0) -> Iterator[None]:
    """Keep other processes from what a file stands for; the lock ends with the process.

    The file and its folder are made if there are none. Whoever has the lock may delete them.
    Raises a `BusyError` if another process has it for another `wait` seconds, a `LaPermError` if
    the file system has no locks.
    """
    lock = FileLock(path, timeout=wait, fallback_to_soft=False)
    while not lock.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            if path.exists():  # else whoever had the lock has just deleted it
                raise BusyError(f"{path.parent}: another process is at work there.") from None
        except FileNotFoundError:  # the folder has been deleted since
            pass
        except OSError as error:
            raise LaPermError(
                f"{path} cannot be locked against other processes: {error}. Take a folder on "
                "another file system."
            ) from None
    try:
        yield
    finally:
        lock.release()
