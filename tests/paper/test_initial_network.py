"""Starts: what decides the initial weights."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laperm_lib import sparsity
from laperm_lib.paper import networks as models
from laperm_lib.paper.initial_network import InitialNetwork

F2 = InitialNetwork(model="f2", seed=5, initializer="glorot_uniform")


def assert_equal_weights(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_start_is_the_model_pruned():
    expected = models.build("f2", seed=5, initializer="glorot_uniform")
    assert_equal_weights(F2.build()[0], expected)
    report = sparsity.random_prune(expected, 0.5, seed=5)
    model, ours = replace(F2, pruned=0.5).build()
    assert ours == report
    assert_equal_weights(model, expected)


def test_a_shared_value_replaces_all_weights():
    expected = models.build("f2", seed=5)
    report = sparsity.agnosticize(expected, 0.03, (0.1, 0.2, 0.3), seed=5)
    model, ours = replace(F2, shared_value=0.03, keep=(0.1, 0.2, 0.3)).build()
    assert ours == report
    assert_equal_weights(model, expected)
    report = sparsity.agnosticize(expected, 0.03, (0.1, 0.2, 0.3), seed=5, constant_fan_in=True)
    start = replace(F2, shared_value=0.03, keep=(0.1, 0.2, 0.3), constant_fan_in=True)
    model, ours = start.build()
    assert ours == report
    assert_equal_weights(model, expected)


def test_the_precision_is_that_of_the_layers():
    model, _ = replace(F2, precision="mixed_bfloat16").build()
    assert model.layers[2].compute_dtype == "bfloat16"
    assert model.weights[0].dtype == "float32"


@pytest.mark.parametrize("wrong", [{"model": "f3"}, {"seed": -1}, {"pruned": 2.0}])
def test_impossible_starts(wrong):
    with pytest.raises(ValueError, match=r"f3|seed|pruned"):
        replace(F2, **wrong).build()


def test_numbers_of_any_kind_are_kept_as_those_of_python():
    start = InitialNetwork(
        model="f2", seed=np.int64(3), shared_value=0.1, keep=np.full(3, 0.5, np.float32)
    )
    assert start == InitialNetwork(model="f2", seed=3, shared_value=0.1, keep=[0.5] * 3)
    assert json.dumps([start.seed, start.keep]) == "[3, [0.5, 0.5, 0.5]]"


def test_starts_refused_before_they_are_built():
    with pytest.raises(ValueError, match="together or not at all"):
        InitialNetwork(model="f1", seed=0, keep=(0.6, 0.6))
    with pytest.raises(ValueError, match="pruned is 0"):
        InitialNetwork(model="f1", seed=0, pruned=0.5, shared_value=0.1, keep=(0.6, 0.6))
    with pytest.raises(ValueError, match="keep is a number at least 0 and at most 1"):
        InitialNetwork(model="f1", seed=0, shared_value=0.1, keep=(0.6, 6.0))
    with pytest.raises(ValueError, match="shared_value is a finite number"):
        InitialNetwork(model="f1", seed=0, shared_value=float("nan"), keep=(0.6, 0.6))
    with pytest.raises(ValueError, match="keep has a number for each kernel"):
        InitialNetwork(model="f1", seed=0, shared_value=0.1, keep=0.6)
    with pytest.raises(ValueError, match="constant_fan_in is for networks with a shared value"):
        InitialNetwork(model="f1", seed=0, pruned=0.5, constant_fan_in=True)
    with pytest.raises(ValueError, match="seed"):
        InitialNetwork(model="f1", seed=-1)
