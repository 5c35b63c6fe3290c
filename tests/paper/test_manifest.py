"""The list of the trained networks: found, read, added to, refused when damaged."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from laperm_lib.errors import WeightFileError
from laperm_lib.paper import manifest
from laperm_lib.paper.manifest import Entry

CONTENT = b"a network"
ENTRY = Entry(
    name="f1-seed0",
    file="f1-seed0.safetensors",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    experiment="f1",
    permuted_weights=7840,
    bits_per_weight=0.96,
    bound_per_weight=0.959,
)


def test_the_first_of_an_experiment_has_the_published_settings_and_the_lowest_seed(tmp_path):
    order = ["f1-seed2", "f1-seed10", "f1-seed0-12345678", "f1-seed1-12345678", "f2-seed0"]
    for name in reversed(order):
        manifest.add(replace(ENTRY, name=name, experiment=name[:2]), tmp_path)
    names = [entry.name for entry in manifest.read(tmp_path)]
    assert names == order
    assert manifest.find("f1", tmp_path).name == order[0]
    assert manifest.find("f1-seed1-12345678", tmp_path).name == "f1-seed1-12345678"
    with pytest.raises(WeightFileError, match=r"no trained network 'f3'; there are f1-seed2"):
        manifest.find("f3", tmp_path)


def test_where_the_networks_are(monkeypatch, repository, tmp_path):
    monkeypatch.delenv(manifest.PRETRAINED_DIR, raising=False)
    assert manifest.default_folder() == repository / "pretrained"
    project = manifest.read()
    assert manifest.read(repository / "pretrained") == manifest.read(tmp_path) == project
    assert {"conv2-seed0-7b5760fc", "conv7-seed1-dd9fd7a5"} < {entry.name for entry in project}
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightFileError, match="set the environment variable LAPERM_PRETRAINED_DIR"):
        manifest.default_folder()
    monkeypatch.setenv(manifest.PRETRAINED_DIR, str(tmp_path))
    assert manifest.default_folder() == Path(tmp_path)
    monkeypatch.setenv(manifest.PRETRAINED_DIR, "https://a.b/networks")
    with pytest.raises(WeightFileError, match="read from a folder: download them to one"):
        manifest.recorded("f1.json")


@pytest.mark.parametrize("place", ["", "notebooks"])
def test_an_installed_package_finds_the_checkout_that_is_worked_in(monkeypatch, tmp_path, place):
    monkeypatch.delenv(manifest.PRETRAINED_DIR, raising=False)
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / "site-packages" / "pretrained")
    for name in ("pretrained", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / place)
    with pytest.raises(WeightFileError, match="do not come with the package"):
        manifest.default_folder()  # that of another project
    (tmp_path / "laperm_lib").mkdir()
    assert manifest.default_folder() == tmp_path / "pretrained"


def test_records_are_found_or_it_is_said_what_to_set(monkeypatch, repository, tmp_path):
    (tmp_path / "rso").mkdir()
    shipped = repository / "pretrained"
    for name in ("", "rso", "masks", "f1.json", "masks/f2.json"):
        for folder in (tmp_path, tmp_path / "missing"):
            monkeypatch.setenv(manifest.PRETRAINED_DIR, str(folder))
            with pytest.raises(WeightFileError, match="set the environment variable LAPERM_PRETR"):
                manifest.recorded(name)
        monkeypatch.setenv(manifest.PRETRAINED_DIR, str(shipped))
        assert manifest.recorded(name) == shipped / name


def test_a_manifest_is_that_of_its_folder_and_that_of_the_checkout_in_the_package(
    monkeypatch, tmp_path
):
    folder, packaged = tmp_path / "new", tmp_path / "package" / "manifest.json"
    monkeypatch.setattr(manifest, "_PACKAGED", packaged)
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / "pretrained")
    manifest.add(ENTRY, tmp_path / "pretrained")
    assert manifest.read() == (ENTRY,)
    assert json.loads(packaged.read_text())["format"] == 2
    assert not (tmp_path / "pretrained").exists()
    monkeypatch.setenv(manifest.PRETRAINED_DIR, str(folder))
    for entry in (replace(ENTRY, name="f1-seed1"), replace(ENTRY, name="f1-seed1", size=3)):
        manifest.add(entry, folder)
        assert manifest.read(folder) == manifest.read() == (entry,)
        assert manifest.find("f1") == entry


def test_additions_at_the_same_time_all_survive(tmp_path):
    (tmp_path / ".manifest.json.0123456789abcdef.part").write_text("a killed process's half")
    entries = [replace(ENTRY, name=f"f1-seed{seed}") for seed in range(40)]
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(lambda entry: manifest.add(entry, tmp_path), entries))
    assert manifest.read(tmp_path) == tuple(entries)
    assert not list(tmp_path.glob(".*.part"))


def assert_not_located(why, *folder, entry=ENTRY):
    with pytest.raises(WeightFileError, match=rf"f1-seed0\.safetensors.*{why}"):
        manifest.locate(entry, *folder)


def test_a_file_is_the_one_that_the_manifest_lists(tmp_path):
    path = tmp_path / ENTRY.file
    assert_not_located("no such file", tmp_path)
    path.write_bytes(CONTENT)
    assert manifest.locate(ENTRY, tmp_path) == path
    for wrong in (CONTENT[::-1], CONTENT[1:]):
        path.write_bytes(wrong)
        assert_not_located("damaged: it is not the file that the manifest", tmp_path)
    path.unlink()
    path.mkdir()
    assert_not_located("", tmp_path, entry=replace(ENTRY, size=path.stat().st_size))
    assert_not_located("cannot be read", "a\0b")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "outside").write_bytes(CONTENT)
    folder, link = tmp_path / "networks", tmp_path / "link"
    folder.mkdir()
    (folder / "inside").write_bytes(CONTENT)
    (folder / ENTRY.file).symlink_to("inside")
    link.symlink_to(folder)
    assert manifest.locate(ENTRY, link) == link / ENTRY.file
    for target, why in [("../outside", "is a link out of its folder"), (ENTRY.file, "be read")]:
        (folder / ENTRY.file).unlink()
        (folder / ENTRY.file).symlink_to(target)
        assert_not_located(why, link)


def test_a_file_that_is_not_at_its_address(monkeypatch, tmp_path):
    """One that is there is downloaded in test_packaging.py."""
    monkeypatch.setenv(manifest.PRETRAINED_DIR, tmp_path.as_uri() + "/")
    assert_not_located("cannot be downloaded")


def text(**changes):
    return json.dumps({"format": 2, "networks": [asdict(ENTRY) | changes]})


@pytest.mark.parametrize(
    "damaged",
    [
        "", "{", "3", "[]", "{}", "\x00", '{"format": 2}', '{"format": 1, "networks": []}',
        '{"format": 2, "networks": [3]}', '{"format": 2, "networks": [{}]}', "[" * 100_000,
        text(more=1), text(file="../f1.safetensors"), text(file=3), text(sha256=None),
        text(name="../f1"), text(name="f\0"), text(file="f\0"), text(experiment=["f1"]),
        text(size="9"), text(permuted_weights=True), text(bits_per_weight="1"),
    ],
)  # fmt: skip
def test_damaged_manifests(damaged, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(damaged)
    with pytest.raises(WeightFileError, match=r"manifest\.json"):
        manifest.read(tmp_path)
    with pytest.raises(WeightFileError, match=r"manifest\.json"):
        manifest.add(ENTRY, tmp_path)
    assert path.read_text() == damaged
