"""What is proved of a network that comes with the project, and that what is wrong is found."""

from dataclasses import replace

import pytest

from laperm_lib.errors import WeightFileError
from laperm_lib.paper import datasets, experiments, manifest
from laperm_lib.paper.experiments import publishing, verification
from laperm_lib.paper.experiments.folders import RunFolder, Task

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


def test_what_is_published_is_proved(published):
    folder, entry = published
    found = verification.verify(entry.name, folder)
    assert found.problems == ()
    assert found.entry == entry
    assert found.proofs == (verification.Proof("dense/kernel", 10, 784, is_permutation=True),)
    assert found.accuracy == pytest.approx(entry.final, abs=1e-9)


def test_what_is_said_and_not_so_is_found(published):
    folder, entry = published
    manifest.add(replace(entry, final=entry.final + 0.01, data_fingerprint="0"), folder)
    found = verification.verify(entry.name, folder)
    assert found.other_images is None
    for words in ("accuracy is", "data are not the digits", "final is", "data_fingerprint is"):
        assert sum(words in problem for problem in found.problems) == 1
    assert len(found.problems) == 4
    elsewhere = replace(found, proofs=(replace(found.proofs[0], is_permutation=False),))
    assert "dense/kernel is not a permutation of its start" in elsewhere.problems


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"experiment": "f2"},
        {"selected": 0.99},
        {"selected": "much"},
        {"published_protocol": 0.999},
        {"bits_per_weight": 0.1},
        {"bound_per_weight": 0.1},
        {"permuted_weights": 7},
        {"seconds": 1},
        {"environment": {}},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)
def test_the_manifest_says_what_record_and_file_say(published, change):
    folder, entry = published
    manifest.add(replace(entry, **change), folder)
    (problem,) = verification.verify(entry.name, folder).problems
    ((name, value),) = change.items()
    assert problem == f"{name} is {getattr(entry, name)}, not {value}"


def test_a_file_of_another_seed_or_start_is_found(published):
    folder, entry = published
    path = folder / f"{entry.name}.json"
    record = experiments.load(path)[0]
    for settings, seed in ((replace(SHORT, shared_value=0.5), 3), (SHORT, 4)):
        experiments.save([replace(record, hyperparameters=settings, seed=seed)], path)
        manifest.add(replace(entry, seed=seed), folder)
        (problem,) = verification.verify(entry.name, folder).problems
        assert "starts otherwise" in problem


def test_images_of_a_known_copy(published, monkeypatch):
    """Of another copy no more is asked than its images allow, and of unknown data everything."""
    folder, entry = published
    found = verification.verify(entry.name, folder)
    monkeypatch.setattr(datasets, "COPIES", {"copy": datasets.Copy("more noise", 0.1, test=0.02)})
    elsewhere = replace(found, data_fingerprint="copy", accuracy=found.accuracy - 0.02)
    assert elsewhere.other_images == 0.02
    assert elsewhere.problems == ()
    (problem,) = replace(elsewhere, accuracy=found.accuracy - 0.021).problems
    assert "the accuracy is" in problem
    unknown = replace(elsewhere, data_fingerprint="unknown", accuracy=found.accuracy)
    (problem,) = unknown.problems
    assert "data are not the digits" in problem


def test_a_network_that_is_not_what_it_was_is_not_verified(published):
    folder, entry = published
    path = folder / entry.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match="not the file that the manifest"):
        verification.verify(entry.name, folder)
    with pytest.raises(WeightFileError, match="no trained network"):
        verification.verify("f2", folder)
