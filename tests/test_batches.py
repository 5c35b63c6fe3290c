"""The order of samples is a function of the seed and the epoch, and goes through all of them."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laperm_lib.batches import Batches, epoch_order


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_every_epoch_holds_every_sample_once_with_its_target(count, batch_size, epochs, seed):
    x, y = np.arange(count), 10 * np.arange(count)
    batches = Batches(x, y, batch_size=batch_size, epochs=epochs, seed=seed)
    steps = batches.steps_per_epoch
    assert len(batches) == epochs * steps
    for epoch in range(epochs):
        parts = [batches[epoch * steps + batch] for batch in range(steps)]
        inputs = np.concatenate([part[0] for part in parts])
        assert sorted(inputs) == list(range(count))
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), 10 * inputs)
        assert all(len(part[0]) == batch_size for part in parts[:-1])


def test_a_batch_does_not_depend_on_those_read_before():
    make = {"batch_size": 4, "epochs": 3, "seed": 1}
    x = np.arange(10)
    in_order = [batch[0].tolist() for batch in map(Batches(x, x, **make).__getitem__, range(9))]
    backwards = Batches(x, x, **make)
    assert [backwards[step][0].tolist() for step in range(8, -1, -1)] == in_order[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_everywhere():
    order = epoch_order(1000, seed=7, epoch=2).astype("<u4")
    digest = hashlib.sha256(order.tobytes()).hexdigest()
    assert digest[:16] == "25e17c777880596d"


@pytest.mark.parametrize(
    ("count", "targets", "arguments"),
    [
        (3, 2, {}),
        (0, 0, {}),
        (3, 3, {"batch_size": 0}),
        (3, 3, {"epochs": 0}),
        (3, 3, {"seed": -1}),
        (3, 3, {"seed": 0.5}),
    ],
)
def test_bad_input(count, targets, arguments):
    make = {"batch_size": 2, "epochs": 1, "seed": 0} | arguments
    with pytest.raises(ValueError, match=r"batch|seed"):
        Batches(np.zeros(count), np.zeros(targets), **make)
