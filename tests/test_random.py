import numpy as np
import pytest

from laperm_lib._random import check_seed, random_order, raw_bits


def test_the_raw_stream_is_the_guaranteed_one():
    assert raw_bits(1, "x").random_raw(2).tolist() == [250272477617406306, 11347951241206139516]


def test_a_random_order_is_the_stable_argsort_of_the_stream():
    words = raw_bits(3, "order of epoch 1").random_raw(100).tolist()
    expected = sorted(range(100), key=words.__getitem__)
    assert random_order(100, 3, "order of epoch 1").tolist() == expected


@pytest.mark.parametrize("seed", [-1, 0.5, "1", True, None])
def test_seeds(seed):
    assert type(check_seed(np.int64(2**40))) is int
    with pytest.raises(ValueError, match="A seed is an integer of at least 0, got "):
        check_seed(seed)
