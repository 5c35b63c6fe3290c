"""Files: whole or not at all; arrays without pickle, with their checksums compared."""

import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from unittest.mock import Mock

import numpy as np
import pytest

from laperm_lib import files
from laperm_lib.errors import LaPermError, WeightFileError


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.bin"
    umask = os.umask(0o027)  # others may read what it lets them
    try:
        with files.replaced(path) as file:
            file.write(b"first")
            assert not path.exists()
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "the writer"])
def test_a_failure_leaves_the_old_file_and_nothing_else(failing, tmp_path, monkeypatch):
    path, interrupted = tmp_path / "a.bin", Mock(side_effect=KeyboardInterrupt)
    path.write_bytes(b"old")
    if failing != "the writer":
        monkeypatch.setattr(os, failing, interrupted)
    with pytest.raises(KeyboardInterrupt), files.replaced(path) as file:
        file.write(interrupted() if failing == "the writer" else b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_folders_need_not_open_as_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError))
    with files.replaced(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_arrays_are_read_as_written(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"dense/kernel": np.arange(6.0).reshape(2, 3), "flag": np.array(True)})
    arrays = files.read_arrays(path)
    assert arrays["dense/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["flag"].shape == ()
    np.savez_compressed(path, mask=np.ones(10**6))
    assert files.read_arrays(path)["mask"].all()
    for version in (1, 2, 3):
        assert files.read_arrays(write_array(path, version=version))["w"].tolist() == [0, 0, 0]


def encrypted(content):
    content = bytearray(content)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    return content


@pytest.mark.parametrize(
    "damage",
    [
        encrypted,
        lambda content: b"",
        lambda content: b"not an archive",
        lambda content: pickle.dumps([1, 2]),
        # With fewer elements, what is read of the entry ends before its checksum is compared.
        lambda content: content.replace(b"(9000,)", b"(1000,)"),
        lambda content: content[:36000] + bytes([content[36000] ^ 1]) + content[36001:],
        lambda content: content[:-1],
    ],
)
def test_damaged_and_foreign_files(damage, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, kernel=np.zeros(9000))
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(WeightFileError, match=r"a\.npz is damaged"):
        files.read_arrays(path)


def test_a_bare_array_and_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", kernel=np.array([{}], dtype=object))
    for name in ("bare.npy", "objects.npz", "missing.npz", "a\0b"):
        with pytest.raises(WeightFileError, match=name):
            files.read_arrays(tmp_path / name)


def write_array(path, shape="(3,)", descr="'<f8'", version=1, compression=0, data=bytes(24)):
    """An npz file with any header, its checksums right, as if made to deceive."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w.npy", b"\x93NUMPY" + bytes([version, 0]) + size + header + data)
    return path


@pytest.mark.parametrize(
    "how",
    [
        *(
            {"shape": f"({size},)"}
            for size in (2, 4, -3, 2**30, 2**37, "-1, -3", f"{2**20}, {2**30}")
        ),
        *({"shape": shape} for shape in ("3", "(3.0,)", "-" * 5000 + "3", "(" * 300, "\0")),
        *({"descr": descr} for descr in ("()", "((),)", "'O'", "'V'", "'(2f8'", "[3]", "{}")),
        *({"version": 9}, {"shape": f"({2**70}, 0)", "data": b""}),
        {"compression": zipfile.ZIP_DEFLATED, "data": bytes(2**26)},
    ],
)
def test_what_a_file_says_of_itself_is_checked_before_it_is_allocated(how, tmp_path):
    path = write_array(tmp_path / "a.npz", **how)
    tracemalloc.start()
    with pytest.raises(WeightFileError, match=r"a\.npz is damaged"):
        files.read_arrays(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_directory_that_claims_too_much_and_a_lack_of_memory(tmp_path, monkeypatch):
    path = write_array(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[(size := content.index(b"PK\x01\x02") + 24) : size + 4] = b"\xfe" * 4
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=f"claims to unpack to {0xFEFEFEFE} bytes"):
        files.read_arrays(path)
    monkeypatch.setattr(zipfile.ZipFile, "read", Mock(side_effect=MemoryError))
    with pytest.raises(WeightFileError, match=r"MemoryError\(\)"):
        files.read_arrays(write_array(path))


def test_json_comes_back_as_it_was_written_and_other_files_are_refused(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": [1, None]})
    assert files.read_json(path, dict, holds="numbers") == {"a": [1, None]}
    for text in ("", "{", "[1]", '{"b": 1}', "null", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(LaPermError, match=r"a\.json does not hold numbers"):
            files.read_json(path, lambda content: content["a"], holds="numbers")
    for path, message in [(tmp_path, "cannot be read"), (tmp_path / "none", "no such file")]:
        with pytest.raises(LaPermError, match=message):
            files.read_json(path, dict, holds="numbers")


def test_what_a_killed_process_leaves_can_be_deleted(tmp_path):
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
    files.delete_parts(tmp_path, "b.*")
    assert part.exists()
    files.delete_parts(tmp_path, "a.*")
    assert not part.exists()


def test_a_link_is_followed_and_what_is_no_file_is_refused(tmp_path):
    link, target = tmp_path / "link", tmp_path / "new" / "a.bin"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        with files.replaced(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    pipe, to_pipe, circle = (tmp_path / name for name in ("pipe", "to_pipe", "circle"))
    os.mkfifo(pipe)
    to_pipe.symlink_to(pipe)
    circle.symlink_to(circle)
    device = os.ttyname(os.openpty()[1])
    for path in (pipe, to_pipe, circle, tmp_path, device):
        with pytest.raises(LaPermError, match=f"{path} is not a regular file"):
            files.write_json(path, [])
    assert pipe.is_fifo()


def test_whether_a_file_can_be_written_is_known_before_and_nothing_is_left(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    for possible in (path, tmp_path / "new" / "er" / "b.bin"):
        files.check_replaceable(possible)
    # The name of the half is longer than that of the file.
    for impossible in (tmp_path, path / "b.bin", tmp_path / ("b" * 240), tmp_path / ("b" * 300)):
        with pytest.raises((OSError, LaPermError), match=str(tmp_path)):
            files.check_replaceable(impossible)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_an_error_does_not_repeat_the_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(500))
    content = bytearray(path.read_bytes())
    content[26:28] = (900).to_bytes(2, "little")  # the length of the entry's name
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match="is damaged") as caught:
        files.read_arrays(path)
    assert len(str(caught.value)) < 1000
    path.write_text("[]")
    parse = Mock(side_effect=ValueError(f"not \n\n\n{5000 * 'x'}"))
    with pytest.raises(LaPermError, match=r"does not hold words: not x+ \.\.\.$") as caught:
        files.read_json(path, parse, holds="words")
    assert len(str(caught.value)) < 1000
