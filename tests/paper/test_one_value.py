"""A wide network with one value: it learns by rewiring alone, and the shipped one is such a one."""

from dataclasses import replace

import numpy as np
import pytest

from laperm_lib.paper import experiments, manifest
from laperm_lib.paper.experiments import verification
from laperm_lib.paper.pretrained import load_pretrained
from laperm_lib.paper.studies import one_value

QUICK = replace(one_value.SETTINGS, dataset="digits", epochs=30, held_out=200, evaluate_every=60)


def values(model):
    """The different values of all kernels together."""
    return np.unique(np.concatenate([kernel.ravel() for kernel in model.get_weights()]))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_value")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_value, "SETTINGS", QUICK)
        return folder, one_value.write(folder, seeds=(3, 4))


def test_it_learns_by_rewiring_and_has_one_value(written):
    folder, entry = written
    model = load_pretrained(folder / entry.file)
    np.testing.assert_array_equal(values(model), np.float32([0, QUICK.shared_value]))
    first, second = experiments.load(folder / "one_value.json")
    assert first.hyperparameters == second.hyperparameters == QUICK
    for record in (first, second):
        assert record.is_permutation
        assert record.final > 0.8


def test_the_network_of_the_first_seed_is_stored_and_verified(written):
    folder, entry = written
    assert [each.name for each in manifest.read(folder)] == [entry.name] == ["one_value-seed3"]
    assert verification.verify(entry.name, folder).problems == ()
    assert entry.bits_per_weight < 1


def test_the_shipped_network_is_one_of_the_recorded_ones():
    model = load_pretrained("one_value")
    np.testing.assert_array_equal(values(model), np.float32([0, one_value.SETTINGS.shared_value]))
    records = experiments.load(manifest.default_folder() / "one_value.json")
    assert {record.hyperparameters for record in records} == {one_value.SETTINGS}
    assert [record.seed for record in records] == list(range(10))
    assert all(record.is_permutation for record in records)
    entry = manifest.find("one_value")
    assert (entry.seed, entry.final) == (records[0].seed, records[0].final)
    assert min(record.final for record in records) > 0.9
