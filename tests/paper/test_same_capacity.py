"""Sparse against dense at the same capacity: how the two are trained and compared."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from laperm_lib import weight_vectors
from laperm_lib.paper.studies import same_capacity
from laperm_lib.paper.studies.same_capacity import Trial, compare, train
from laperm_lib.paper.studies.same_capacity_networks import Architecture
from laperm_lib.paper.studies.signed_rank import wilcoxon

SHORT = Trial(
    architecture=Architecture(units=(16, 16), batch_norm=True),
    capacity="sparse",
    optimizer="adam",
    dataset="digits",
    epochs=2,
    batch_size=64,
    sync_period=10,
    measure_every=20,
)


def kernels(model):
    return [ops.convert_to_numpy(vectors.variable) for vectors in weight_vectors.of(model)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": "wide"}, "capacity is one of"),
        ({"optimizer": "rmsprop"}, "optimizer is one of"),
        ({"factor": 1}, "factor is an integer of at least 2"),
        ({"epochs": 0}, "epochs is an integer of at least 1"),
        ({"measure_every": 25}, "multiple of sync_period"),
    ],
)
def test_bad_trials_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **change)


@pytest.fixture(scope="module")
def sparse():
    return train(SHORT, seed=0)


def test_pruned_weights_stay_pruned_and_the_network_learns(sparse):
    assert sparse.accuracy > 0.4
    dense = kernels(replace(SHORT, capacity="dense").build((28, 28, 1), seed=0))
    assert sparse.active == tuple(kernel.size for kernel in dense)
    assert sparse.steps == (0, 20, 40, 46)
    assert len(sparse.norms) == len(sparse.effective) == 4
    for norms, effective in zip(sparse.norms, sparse.effective, strict=True):
        assert all(0 < e < n for n, e in zip(norms, effective, strict=True))
    assert sparse.effective_flow == pytest.approx(np.mean(sparse.effective[1:]))
    assert sparse.plain_flow > sparse.effective_flow


def test_a_seed_gives_the_same_run_again_and_another_seed_another(sparse):
    again, other = train(SHORT, seed=0), train(SHORT, seed=1)
    assert again.effective[0] == sparse.effective[0]
    assert other.effective[0] != sparse.effective[0]
    if keras.backend.backend() == "tensorflow":
        assert again == sparse


@pytest.mark.parametrize("capacity", ["dense", "sparse"])
def test_permuted_networks_keep_their_values(capacity, monkeypatch):
    """Also between the two: what they are arrangements of are the same numbers."""
    built = []
    build = Trial.build

    def kept(self, *args, **kwargs):
        built.append(build(self, *args, **kwargs))
        return built[-1]

    monkeypatch.setattr(Trial, "build", kept)
    trial = replace(SHORT, capacity=capacity, optimizer="laperm", epochs=1)
    result = train(trial, seed=0)
    dense = build(replace(SHORT, capacity="dense"), (28, 28, 1), seed=0)
    start = build(trial, (28, 28, 1), seed=0)
    for values, before, after in zip(
        kernels(dense), kernels(start), kernels(built[0]), strict=True
    ):
        np.testing.assert_array_equal(np.sort(after[after != 0]), np.sort(values.ravel()))
        assert (before != after).any()
        if capacity == "sparse":
            assert ((before == 0) != (after == 0)).any()  # zeros have moved
    assert result.active == tuple(kernel.size for kernel in kernels(dense))


def test_a_comparison_pairs_the_two_by_seed(monkeypatch, sparse):
    def trained(trial, *, seed, data_dir=None):
        right = {"sparse": [0.5, 0.75, 0.25], "dense": [0.25, 0.25, 0.5]}[trial.capacity][seed]
        return replace(sparse, trial=trial, seed=seed, accuracy=right)

    monkeypatch.setattr(same_capacity, "train", trained)
    comparison, narrow, wide = compare(SHORT, [0, 1, 2])
    assert comparison == wilcoxon([0.25, 0.5, -0.25])
    assert comparison.positive == 2
    assert [r.trial.capacity for r in (*narrow, *wide)] == ["sparse"] * 3 + ["dense"] * 3
    assert [r.seed for r in (*narrow, *wide)] == [0, 1, 2] * 2
    for trial, seeds in ((replace(SHORT, capacity="dense"), [0]), (SHORT, [])):
        with pytest.raises(ValueError, match="sparse network, with at least one seed"):
            compare(trial, seeds)
