"""From a run folder to the shipped networks, and the proof of what is said of them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from short_runs import SHORT, TASK

from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import datasets, manifest, records
from laperm_lib.paper.methods import SignedLaPerm, SignFlip, Switch
from laperm_lib.paper.pretrained import load_pretrained
from laperm_lib.paper.training import run
from laperm_lib.paper.verification import Proof, publish, publish_first, verify


@pytest.fixture
def published(run_folder, tmp_path):
    """A folder with one network, and its entry."""
    return tmp_path, publish(run_folder.path, tmp_path)


def test_what_is_published_is_the_network_of_the_run_and_proved(run_folder, published, monkeypatch):
    folder, entry = published
    assert (entry.name, entry.experiment, entry.permuted_weights) == (TASK.name, "f1", 7840)
    assert manifest.read(folder) == (entry,)
    assert records.load_one(folder / f"{entry.name}.json") == run_folder.record()
    assert (folder / entry.file).stat().st_size == entry.size < 3000
    assert entry.bits_per_weight == pytest.approx(entry.bound_per_weight, rel=0.02)
    assert entry.bits_per_weight < 1
    monkeypatch.setenv(manifest.PRETRAINED_DIR, str(folder))
    kernels = [model.get_weights()[0] for model in (load_pretrained("f1"), run_folder.network())]
    assert kernels[0].tobytes() == kernels[1].tobytes()

    found = verify(entry.name, folder)
    assert (found.problems, found.record) == ((), run_folder.record())
    assert found.proofs == (Proof("dense/kernel", 10, holds=True),)
    assert found.accuracy == pytest.approx(found.record.final, abs=1e-9)
    elsewhere = replace(found, proofs=(replace(found.proofs[0], holds=False),))
    assert elsewhere.problems == ("dense/kernel is not a permutation of its initial values",)

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert publish(run_folder.path, folder) == entry
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("method", [SignFlip, Switch, SignedLaPerm])
def test_relatives_are_stored_in_about_the_bits_of_their_set_and_proved(method, tmp_path):
    settings = SHORT.replace(method=method(sync_period=20), learning_rate=0.1)
    entry = publish_first("relative", [run(settings, seed=1, experiment="relative")], tmp_path)
    found = verify(entry.name, tmp_path)
    assert (found.problems, found.record.is_permutation) == ((), False)
    assert found.proofs == (Proof("dense/kernel", 10, holds=True),)
    assert entry.bits_per_weight == pytest.approx(entry.bound_per_weight, rel=0.01)
    wrong = replace(found.record, settings=SHORT)
    records.save([wrong], tmp_path / f"{entry.name}.json")
    assert any("not what its record says" in each for each in verify(entry.name, tmp_path).problems)


def test_of_several_runs_all_are_recorded_and_the_first_is_stored(tmp_path):
    made = [run(SHORT.replace(epochs=1), seed=seed, experiment="wiring") for seed in (4, 2)]
    entry = publish_first("wiring", iter(made), tmp_path)
    assert manifest.read(tmp_path) == (entry,)
    assert entry.name == "wiring-seed4"
    assert records.load_one(tmp_path / "wiring-seed4.json") == made[0]
    assert records.load(tmp_path / "wiring.json") == tuple(made)
    with pytest.raises(ValueError, match="no runs of wiring"):
        publish_first("wiring", [], tmp_path)


def test_runs_that_cannot_be_published(run_folder, tmp_path):
    copy, destination = tmp_path / "copy", tmp_path / "published"
    with pytest.raises(LaPermError, match="no such file"):
        publish(tmp_path, destination)
    shutil.copytree(run_folder.path, copy)
    arrays = dict(np.load(copy / "network.npz"))
    np.savez(copy / "network.npz", **{"dense/kernel": arrays["dense/kernel"] + 1})
    with pytest.raises(LaPermError, match="is not a permutation of its initial values"):
        publish(copy, destination)
    np.savez(copy / "network.npz", other=np.ones(3))
    with pytest.raises(WeightFileError, match=r"network\.npz"):
        publish(copy, destination)
    shutil.copy(run_folder.path / "network.npz", copy)
    adam = replace(run_folder.record(), settings=SHORT.replace(sync_period=None))
    records.save([adam], copy / "record.json")
    with pytest.raises(LaPermError, match="not trained by permuting"):
        publish(copy, destination)
    assert not destination.exists()


def test_what_is_said_and_not_so_is_found(run_folder, published):
    folder, entry = published
    record = run_folder.record()

    def verified(**changes):
        records.save([replace(record, **changes)], folder / f"{entry.name}.json")
        return verify(entry.name, folder)

    wrong = {"final": record.final + 0.01, "data_fingerprint": "0", "is_permutation": False}
    found = verified(**wrong)
    assert found.other_images is None
    assert found.problems == (
        "its record says that it is not a permutation",
        "the data are not the digits that it was measured on",
        f"the accuracy is {record.final:.4f}, not {record.final + 0.01:.4f}",
    )
    assert "nan" in verified(final=None).problems[-1]
    settings = [{"shared_value": 0.5}, {"permute_biases": True}, {"sync_period": None}]
    for wrong in ({"seed": 4}, *({"settings": SHORT.replace(**each)} for each in settings)):
        (problem,) = verified(**wrong).problems
        assert "is not what its record says" in problem
    verified()
    wrong = {"experiment": "f2", "permuted_weights": 7, "bits_per_weight": 0.1}
    for name, value in (wrong | {"bound_per_weight": 0.1}).items():
        manifest.add(replace(entry, **{name: value}), folder)
        (problem,) = verify(entry.name, folder).problems
        assert problem == f"{name} is {getattr(entry, name)}, not {value}"


def test_images_of_a_known_copy(published, monkeypatch):
    """Of another copy no more is asked than its images allow, and of unknown data everything."""
    folder, entry = published
    found = verify(entry.name, folder)
    monkeypatch.setattr(datasets, "COPIES", {"copy": datasets.Copy("more noise", test=0.02)})
    elsewhere = replace(found, data_fingerprint="copy", accuracy=found.accuracy - 0.02)
    assert (elsewhere.other_images, elsewhere.problems) == (0.02, ())
    (problem,) = replace(elsewhere, accuracy=found.accuracy - 0.021).problems
    assert "the accuracy is" in problem
    (problem,) = replace(found, data_fingerprint="unknown").problems
    assert "data are not the digits" in problem


def test_a_network_that_is_not_what_it_was_is_not_verified(published):
    folder, entry = published
    path = folder / entry.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match="not the file that the manifest"):
        verify(entry.name, folder)
    with pytest.raises(WeightFileError, match="no trained network"):
        verify("f2", folder)
