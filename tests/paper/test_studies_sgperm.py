"""Runs by SGPerm alone: what is measured, that it repeats, how it is recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laperm_lib import permutation, weight_vectors
from laperm_lib.errors import LaPermError
from laperm_lib.paper import experiments
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments import verification
from laperm_lib.paper.studies import sgperm

SHORT = replace(sgperm.SETTINGS, dataset="digits", epochs=8, held_out=200, evaluate_every=20)


@pytest.fixture(scope="module")
def short_run():
    return sgperm.run(SHORT, seed=3)


def test_it_learns_by_permuting(short_run):
    assert short_run.final > 0.5
    assert short_run.is_permutation
    assert [e.step for e in short_run.evaluations] == [20, 40, 60, 80]
    assert all(e.since_sync == 0 and e.held_out > 0.2 for e in short_run.evaluations)
    start = weight_vectors.of(models.build("f2", seed=3))
    for before, after in zip(start, weight_vectors.of(short_run.model), strict=True):
        assert permutation.is_permutation(before.matrix(), after.matrix())
        assert not np.array_equal(before.matrix(), after.matrix())


def test_a_seed_gives_the_same_run_again_and_another_seed_another(short_run):
    again, other = (sgperm.run(SHORT, seed=seed) for seed in (3, 4))
    kernels = [run.model.get_weights()[0] for run in (short_run, again, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_a_network_that_is_no_permutation_is_noticed(monkeypatch):
    """A value changed on the way and put back is seen by the evaluation in between."""
    taken = sgperm.SGPerm._take_step

    def with_a_bump(self, grads, variables):
        taken(self, grads, variables)
        variables[0].assign(variables[0] + 1)

    monkeypatch.setattr(sgperm.SGPerm, "_take_step", with_a_bump)
    assert not sgperm.run(replace(SHORT, epochs=2), seed=0).is_permutation


def test_records_are_read_back_as_written(short_run, tmp_path, monkeypatch):
    monkeypatch.setattr(sgperm, "run", lambda seed: replace(short_run, seed=seed))
    monkeypatch.setattr(sgperm, "run_beside", lambda settings, seed: replace(short_run, seed=seed))
    sgperm.write(tmp_path, seeds=(3, 4))
    records = experiments.load(tmp_path / "sgperm.json")
    assert records[0] == experiments.record("sgperm", short_run)
    assert [entry.seed for entry in records] == [3, 4]
    assert records[0].hyperparameters == SHORT
    written = {path.name for path in tmp_path.iterdir()}
    tables = {f"{name}.json" for name in ("sgperm", *sgperm.BESIDE)}
    assert written == tables | {"manifest.json", "sgperm-seed3.json", "sgperm-seed3.safetensors"}
    assert verification.verify("sgperm-seed3", tmp_path).problems == ()


def test_records_of_another_rearrangement_are_refused(short_run, tmp_path):
    path = tmp_path / "sgperm.json"
    experiments.save([experiments.record("sgperm", short_run)], path)
    entries = json.loads(path.read_text())
    entries[0]["hyperparameters"]["rearrangement"]["gamma"] = 1
    path.write_text(json.dumps(entries))
    with pytest.raises(LaPermError, match="gamma"):
        experiments.load(path)
