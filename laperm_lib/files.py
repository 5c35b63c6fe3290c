"""Files written whole or not at all, and locked; JSON, and arrays read without pickle."""

import fcntl
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from laperm_lib.errors import BusyError, LaPermError, WeightFileError

_Read = TypeVar("_Read")

_PART = ".part"


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of another once it is complete and on the disk.

    Whoever reads `path` meanwhile sees the old file. If anything fails, a full disk included, the
    old file stays and nothing else is left behind; only of a process that is killed what it had
    written stays, in a file as `parts_of` names it.

    Args:
        path: the file; its folder is made if there is none.

    Yields:
        A binary file to write to.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with replaced(Path(folder.name, "new", "a.txt")) as file:
        ...     length = file.write(b"whole")
        >>> Path(folder.name, "new", "a.txt").read_text()
        'whole'
        >>> folder.cleanup()
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files only their owner may read.
    with open(path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}"), "x+b") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_folder(path.parent)


def parts_of(folder: Path, name: str = "*") -> list[Path]:
    """What processes that were killed have left of files that were to be `replaced`.

    Args:
        folder: where the files are.
        name: that of the files, as a pattern. Default: any.
    """
    return sorted(folder.glob(f".{name}.*{_PART}"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from what a file stands for; the lock goes with the process.

    Args:
        path: the file; it and its folder are made if there are none. Whoever has the lock may
            delete them.

    Raises:
        BusyError: if another process has the lock.
        LaPermError: if this file system has no locks.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its folder has been deleted since
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # deleted by whoever had the lock
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(f"{path.parent}: another process is at work there.") from None
        except OSError as error:
            os.close(descriptor)
            raise LaPermError(
                f"{path} cannot be locked against other processes: {error}. Take a folder on "
                "another file system."
            ) from None
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file, atomically.

    Args:
        path: the file; its folder is made if there is none.
        content: what `json.dumps` takes.
        indent: spaces by level; None writes a single line. Default 1.
    """
    text = json.dumps(content, indent=indent) + "\n"
    with replaced(path) as file:
        file.write(text.encode())


def read_json(path: str | os.PathLike[str], parse: Callable[[Any], _Read], *, holds: str) -> _Read:
    """Read a JSON file.

    Args:
        path: the file.
        parse: makes of its content what is wanted; may raise a `ValueError`, `TypeError`,
            `KeyError` or `AttributeError` where something else was written.
        holds: what the file should hold, for the error.

    Returns:
        What `parse` gives.

    Raises:
        LaPermError: if there is no such file, it cannot be read, or it does not hold that.

    Examples:
        >>> read_json("missing.json", list, holds="records of runs")
        Traceback (most recent call last):
        laperm_lib.errors.LaPermError: missing.json: there is no such file.
    """
    path = os.fspath(path)
    try:
        return parse(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LaPermError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise LaPermError(f"{path} cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LaPermError(f"{path} does not hold {holds}: {error}") from None


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, each compared with its checksum; nothing is unpickled.

    Args:
        path: a file as `numpy.savez` writes it.

    Returns:
        The arrays by name.

    Raises:
        WeightFileError: if there is no such file, or it is damaged or of another kind.

    Examples:
        >>> read_arrays("missing.npz")
        Traceback (most recent call last):
        laperm_lib.errors.WeightFileError: missing.npz: there is no such file.
    """
    path = os.fspath(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                # Whole: NumPy reads as much as the header of the array asks for, and only at the
                # end of an entry is its checksum compared.
                entry = io.BytesIO(archive.read(name))
                array = np.lib.format.read_array(entry, allow_pickle=False)
                arrays[name.removesuffix(".npy")] = array
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:  # a RuntimeError where a bit says that an entry is encrypted
        raise WeightFileError(f"{path} is damaged, or no npz file: {error}") from None
    return arrays


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable too: it is an entry of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
