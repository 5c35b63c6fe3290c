"""Files that are written whole or not at all; JSON, and arrays read from them without pickle."""

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from laperm_lib.errors import LaPermError, WeightFileError

_Read = TypeVar("_Read")


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of another once it is complete and on the disk.

    Whoever reads `path` meanwhile sees the old file. If anything fails, a full disk included, the
    old file stays and nothing else is left behind.

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
    # The name says what it is to whoever finds it after a power cut.
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
    ) as file:
        try:
            # Readable by all that the umask lets read, as any new file; tempfile allows the owner.
            os.chmod(file.name, 0o666 & ~_umask())
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_folder(path.parent)


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
        LaPermError: if there is no such file, or it does not hold that.

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
    try:
        # Opened here, because NumPy leaves a damaged archive open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except (AttributeError, TypeError, NotImplementedError) as error:  # a bare array, for one
        raise WeightFileError(f"{path} does not hold named arrays: {error}") from None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:  # a RuntimeError where a bit says that an entry is encrypted
        raise WeightFileError(f"{path} is damaged: {error}") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise WeightFileError(f"{path} does not hold arrays alone.")  # NumPy gives other files raw
    return arrays


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable too: it is an entry of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
