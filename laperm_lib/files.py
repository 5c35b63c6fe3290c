"""Files written whole or not at all; JSON, and arrays read without pickle."""

import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from laperm_lib.errors import LaPermError, WeightFileError, in_short

_Read = TypeVar("_Read")

_PART = ".part"
_SMALL = 2**24  # bytes that any file may unpack to
_PLAUSIBLE_RATIO = 100  # of unpacked to packed bytes: images and weights reach a tenth of it


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new binary file that takes the place of `path` once it is complete and on the disk.

    Readers see the old file meanwhile. If anything fails, a full disk included, the old file stays
    and the new one is deleted; only a killed process leaves its half, for `delete_parts`. Of a link
    the file that it leads to is replaced; a LaPermError if that is a folder, a device or a pipe.
    """
    given, path = path, Path(os.path.realpath(path))
    # Links that lead in a circle have no end: that one is a link still.
    if path.is_symlink() or (os.path.exists(given) and not os.path.isfile(given)):
        raise LaPermError(f"{given} is not a regular file, so it is not replaced: name another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files only their owner may read.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)  # once it is closed: Windows moves no open file
    except BaseException as error:
        part.unlink(missing_ok=True)
        # A full disk's error has no name, a folder's that cannot be written one nobody knows.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise what `replaced` would raise, an OSError or a LaPermError; nothing is left behind."""
    new = [folder for folder in Path(os.path.realpath(path)).parents if not folder.exists()]
    try:
        with suppress(EOFError), replaced(path):
            raise EOFError  # so that it gives up, having opened the new file
    finally:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable too: it is an entry of the folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_parts(folder: Path, name: str = "*") -> None:
    """Delete what killed processes have left of files (of that name, a pattern) to be `replaced`.

    Only where no other process can be writing such a file now.
    """
    for part in folder.glob(f".{name}.*{_PART}"):
        part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file, atomically; an `indent` of None writes a single line."""
    text = json.dumps(content, indent=indent) + "\n"
    with replaced(path) as file:
        file.write(text.encode())


def read_json(path: str | os.PathLike[str], parse: Callable[[Any], _Read], *, holds: str) -> _Read:
    """What `parse` makes of the content of a JSON file, or a LaPermError.

    `holds` says in the error what the file should hold, if `parse` raises for other content.
    """
    try:
        return parse(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LaPermError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise LaPermError(f"{path} cannot be read: {in_short(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LaPermError(f"{path} does not hold {holds}: {in_short(error)}") from None


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name, checksums compared, nothing unpickled; or an error.

    No more is allocated than a file of its size can plausibly hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > _SMALL + _PLAUSIBLE_RATIO * os.path.getsize(path):
                raise ValueError(f"it claims to unpack to {unpacked} bytes.")
            # Whole entries: only at the end of one is its checksum compared.
            return {e.filename.removesuffix(".npy"): _array(archive.read(e)) for e in entries}
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except Exception as error:  # zipfile, zlib and NumPy raise nearly every kind
        raise WeightFileError(f"{path} is damaged, or no npz file: {in_short(error)}") from None


def _array(content: bytes) -> np.ndarray:
    """The array of an entry; NumPy alone would allocate whatever its header asks for."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    # The header of version 3 has the layout of version 2.
    is_first, npy = version == (1, 0), np.lib.format
    shape, _, dtype = (npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0)(file)
    says = math.prod(shape) * dtype.itemsize
    if says != len(content) - file.tell() and not dtype.hasobject:  # which read_array refuses
        raise ValueError(f"an array of shape {shape} is not as large as its header says.")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
