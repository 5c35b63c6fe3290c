"""Files: whole or not at all; arrays without pickle, with their checksums compared."""

import errno
import fcntl
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from laperm_lib import files
from laperm_lib.errors import BusyError, LaPermError, WeightFileError


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with files.replaced(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(failing, tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(OSError, match="No space"), files.replaced(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_an_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with files.replaced(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    old = os.umask(0o027)
    try:
        with files.replaced(tmp_path / "a.bin") as file:
            file.write(b"new")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_arrays_are_read_as_written(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"dense/kernel": np.arange(6.0).reshape(2, 3), "flag": np.array(True)})
    arrays = files.read_arrays(path)
    assert arrays["dense/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["flag"].shape == ()


def test_a_changed_shape_is_noticed(tmp_path):
    """With fewer elements, what is read of the entry ends before its checksum is compared."""
    path = tmp_path / "a.npz"
    np.savez(path, kernel=np.zeros(9000))
    content = path.read_bytes()
    assert content.count(b"(9000,)") == 1
    path.write_bytes(content.replace(b"(9000,)", b"(1000,)"))
    with pytest.raises(WeightFileError, match=r"a\.npz is damaged"):
        files.read_arrays(path)


def test_every_changed_byte_of_an_array_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, kernel=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=r"a\.npz is damaged"):
        files.read_arrays(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty", b""), ("text", b"not an archive"), ("pickle", pickle.dumps([1, 2]))],
)
def test_foreign_files(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=name):
        files.read_arrays(path)


def test_truncated_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, kernel=np.zeros(1000))
    whole = path.read_bytes()
    for length in range(0, len(whole), 500):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightFileError, match=r"a\.npz"):
            files.read_arrays(path)


def test_a_bare_array_and_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", kernel=np.array([{}], dtype=object))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("kernel.npy", "no array")
    for name in ("bare.npy", "objects.npz", "zip.npz"):
        with pytest.raises(WeightFileError, match=name):
            files.read_arrays(tmp_path / name)


def test_json_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": [1, None]})
    assert files.read_json(path, dict, holds="numbers") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"b": 1}', "null", "\xff"])
def test_other_json_is_refused_by_what_it_should_hold(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LaPermError, match=r"a\.json does not hold numbers"):
        files.read_json(path, lambda content: content["a"], holds="numbers")


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(LaPermError, match="cannot be read"):
        files.read_json(tmp_path, dict, holds="numbers")


def test_what_a_killed_process_leaves_can_be_found(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from laperm_lib import files
with files.replaced(Path(sys.argv[1], "a.bin")) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    (part,) = tmp_path.iterdir()
    assert files.parts_of(tmp_path) == files.parts_of(tmp_path, "a.*") == [part]
    assert files.parts_of(tmp_path, "b.*") == []


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path):
    path = tmp_path / "new" / "lock"
    with files.locked(path), pytest.raises(BusyError, match="another process"), files.locked(path):
        pass
    with files.locked(path):
        pass


def test_a_lock_of_a_file_that_was_deleted_is_none(tmp_path, monkeypatch):
    """Whoever has the lock may delete it between another's opening and locking."""
    path, lock, deleted = tmp_path / "new" / "lock", fcntl.flock, []

    def lock_what_is_deleted(descriptor, how):
        if not deleted:
            deleted.append(os.fstat(descriptor).st_ino)
            shutil.rmtree(path.parent)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_what_is_deleted)
    with files.locked(path):
        monkeypatch.undo()
        with pytest.raises(BusyError), files.locked(path):
            pass


def test_a_file_system_without_locks_is_named_as_that(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    refused = pytest.raises(LaPermError, match=r"cannot be locked.*No locks")
    with refused as raised, files.locked(tmp_path / "lock"):
        pass
    assert not isinstance(raised.value, BusyError)
