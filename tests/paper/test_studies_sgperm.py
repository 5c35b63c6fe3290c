"""Runs by SGPerm alone: that it learns by permuting, and what is written of it."""

from dataclasses import replace

import numpy as np
import pytest

from laperm_lib.optimizers.sgperm import SGPerm
from laperm_lib.paper import records, verification
from laperm_lib.paper.studies import sgperm
from laperm_lib.paper.training import run

SHORT = sgperm.SETTINGS.replace(dataset="digits", epochs=8, held_out=200, evaluate_every=20)


@pytest.fixture(scope="module")
def record():
    return run(SHORT, seed=3, experiment="sgperm")


def test_it_learns_by_permuting(record):
    assert record.final > 0.5
    assert record.is_permutation
    assert [e.step for e in record.evaluations] == [20, 40, 60, 80]
    assert all(e.since_sync == 0 and e.held_out > 0.2 for e in record.evaluations)
    start, _ = SHORT.network.build(3)
    assert not any(map(np.array_equal, start.get_weights(), record.model.get_weights()))


def test_its_seed_is_that_of_the_run_and_what_is_no_permutation_is_noticed(record, monkeypatch):
    """The same network and images, by another seed of SGPerm, go another way."""
    start, taken = SGPerm.__init__, SGPerm._take_step
    monkeypatch.setattr(SGPerm, "__init__", lambda self, *, seed, **how: start(self, seed=0, **how))
    other = run(SHORT, seed=3)
    assert not np.array_equal(record.model.get_weights()[0], other.model.get_weights()[0])

    def with_a_bump(self, grads, variables):
        taken(self, grads, variables)
        variables[0].assign(variables[0] + 1)

    monkeypatch.setattr(SGPerm, "_take_step", with_a_bump)
    assert not run(SHORT.replace(epochs=2), seed=0).is_permutation


def test_what_is_written_is_verified(record, tmp_path, monkeypatch):
    monkeypatch.setattr(sgperm, "run", lambda _, *, seed, experiment: replace(record, seed=seed))
    sgperm.write(tmp_path, seeds=(3, 4))
    found = records.load(tmp_path / "sgperm.json")
    assert found == (record, replace(record, seed=4))
    written = {path.name for path in tmp_path.glob("[!.]*")}
    tables = {f"{name}.json" for name in ("sgperm", *sgperm.BESIDE)}
    assert written == tables | {"manifest.json", "sgperm-seed3.json", "sgperm-seed3.safetensors"}
    assert verification.verify("sgperm-seed3", tmp_path).problems == ()
