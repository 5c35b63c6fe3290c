"""The list of the trained networks: found, read, added to, refused when damaged."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from laperm_lib.errors import WeightFileError
from laperm_lib.paper import manifest
from laperm_lib.paper.manifest import Entry

ENTRY = Entry(
    name="f1-seed0",
    file="f1-seed0.safetensors",
    sha256="0" * 64,
    size=1500,
    hdf5_size=40_000,
    permuted_weights=7840,
    bits_per_weight=0.96,
    bound_per_weight=0.959,
    experiment="f1",
    seed=0,
    final=0.8,
    selected=None,
    published_protocol=0.81,
    dataset="mnist",
    data_fingerprint="1" * 64,
    seconds=12.5,
    environment={"keras": "3.15.1"},
)


def test_entries_are_read_as_they_were_added(tmp_path):
    manifest.add(ENTRY, tmp_path / "new")
    assert manifest.read(tmp_path / "new") == (ENTRY,)
    changed = replace(ENTRY, final=0.7)
    manifest.add(changed, tmp_path / "new")
    assert manifest.read(tmp_path / "new") == (changed,)


def test_the_first_of_an_experiment_has_the_published_settings_and_the_lowest_seed(tmp_path):
    order = ["f1-seed2", "f1-seed10", "f1-seed0-12345678", "f1-seed1-12345678", "f2-seed0"]
    for name in reversed(order):
        experiment, seed = name.split("-")[:2]
        seed = int(seed.removeprefix("seed"))
        manifest.add(replace(ENTRY, name=name, experiment=experiment, seed=seed), tmp_path)
    assert list(manifest.names(tmp_path)) == order
    assert manifest.find("f1", tmp_path).name == "f1-seed2"
    assert manifest.find("f1-seed1-12345678", tmp_path).seed == 1
    with pytest.raises(WeightFileError, match=r"no trained network 'f3' in .*; there are f1-seed2"):
        manifest.find("f3", tmp_path)


def test_where_the_networks_are(monkeypatch, repository, tmp_path):
    monkeypatch.delenv(manifest.PRETRAINED_DIR, raising=False)
    assert manifest.default_folder() == repository / "pretrained"
    monkeypatch.setenv(manifest.PRETRAINED_DIR, str(tmp_path))
    assert manifest.default_folder() == Path(tmp_path)
    with pytest.raises(WeightFileError, match=r"no .*manifest\.json.*LAPERM_PRETRAINED_DIR"):
        manifest.names()


def text(**changes):
    return json.dumps({"format": 1, "networks": [asdict(ENTRY) | changes]})


@pytest.mark.parametrize(
    "damaged",
    [
        "", "{", "3", "[]", "{}", "\x00", '{"format": 1}', '{"format": 2, "networks": []}',
        '{"format": 1, "networks": [3]}', '{"format": 1, "networks": [{}]}', "[" * 100_000,
        text(more=1), text(file="../f1.safetensors"), text(file=3), text(sha256=None),
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


def test_a_manifest_that_is_no_text(tmp_path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(WeightFileError, match="cannot be read"):
        manifest.read(tmp_path)
