"""From a run folder to the networks that come with the project."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import experiments, manifest
from laperm_lib.paper.experiments import publishing
from laperm_lib.paper.experiments.folders import RunFolder, Task
from laperm_lib.paper.pretrained import load_pretrained

SHORT = replace(experiments.quick("f1"), epochs=5, sync_period=20, evaluate_every=20, held_out=400)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs"), Task("f1", SHORT, 3))
    folder.run()
    return folder


@pytest.fixture
def published(run_folder, tmp_path):
    """A folder with one network, and its entry."""
    return tmp_path, publishing.publish(run_folder.path, tmp_path)


def test_what_is_published_is_the_network_of_the_run(run_folder, published, monkeypatch):
    folder, entry = published
    record = run_folder.record()
    assert entry.name == run_folder.task.name
    assert manifest.read(folder) == (entry,)
    assert (entry.experiment, entry.seed, entry.dataset) == ("f1", 3, "digits")
    assert entry.final == record.final
    assert entry.selected == record.selected is not None
    assert entry.published_protocol == record.published_protocol
    assert entry.environment == record.environment
    assert experiments.load(folder / f"{entry.name}.json") == (record,)
    assert (folder / entry.file).stat().st_size == entry.size < entry.hdf5_size / 10
    assert entry.permuted_weights == 7840
    assert entry.bits_per_weight == pytest.approx(entry.bound_per_weight, rel=0.02)
    assert entry.bits_per_weight < 1
    monkeypatch.setenv(manifest.PRETRAINED_DIR, str(folder))
    kernels = [model.get_weights()[0] for model in (load_pretrained("f1"), run_folder.network())]
    assert kernels[0].tobytes() == kernels[1].tobytes()


def test_publishing_again_changes_nothing(run_folder, published):
    folder, entry = published
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert publishing.publish(run_folder.path, folder) == entry
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_of_several_runs_all_are_recorded_and_the_first_is_stored(tmp_path):
    runs = [experiments.run(SHORT, seed=seed) for seed in (4, 2)]
    entry = publishing.publish_first("wiring", iter(runs), tmp_path)
    assert manifest.read(tmp_path) == (entry,)
    assert (entry.name, entry.final) == ("wiring-seed4", runs[0].final)
    records = experiments.load(tmp_path / "wiring.json")
    assert records == tuple(experiments.record("wiring", run) for run in runs)
    with pytest.raises(ValueError, match="no runs of wiring"):
        publishing.publish_first("wiring", [], tmp_path)


def test_runs_that_cannot_be_published(run_folder, tmp_path):
    with pytest.raises(LaPermError, match="no such file"):
        publishing.publish(tmp_path, tmp_path)
    record = json.loads((run_folder.path / "record.json").read_text())
    arrays = dict(np.load(run_folder.path / "network.npz"))
    copy = tmp_path / "copy"
    copy.mkdir()
    np.savez(copy / "network.npz", **{"dense/kernel": arrays["dense/kernel"] + 1})
    (copy / "record.json").write_text(json.dumps(record))
    with pytest.raises(LaPermError, match="is not a permutation of its start"):
        publishing.publish(copy, tmp_path / "published")
    np.savez(copy / "network.npz", other=np.ones(3))
    with pytest.raises(WeightFileError, match=r"network\.npz"):
        publishing.publish(copy, tmp_path / "published")
    record[0]["hyperparameters"]["sync_period"] = None
    (copy / "record.json").write_text(json.dumps(record))
    with pytest.raises(LaPermError, match="not trained by permuting"):
        publishing.publish(copy, tmp_path / "published")
    (copy / "record.json").write_text("[]")
    with pytest.raises(LaPermError, match=r"record\.json"):
        publishing.publish(copy, tmp_path / "published")
    assert not (tmp_path / "published").exists()
