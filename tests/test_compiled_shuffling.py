"""Random places in linear time are those that NumPy's sort gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laperm_lib.cycles import compiled as compiled_shuffling
from laperm_lib.cycles import reference as cycles

RNG = np.random.default_rng(0)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


@given(st.data())
def test_places_in_the_order_of_any_words(data):
    few = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])
    words = data.draw(hnp.arrays("uint64", data.draw(SHAPES), elements=few))
    np.testing.assert_array_equal(compiled_shuffling.shuffle(words), cycles.shuffle(words))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 784, 1023, 1024, 1025, 100_000])
def test_places_in_the_order_of_random_words(d):
    words = RNG.integers(0, 2**64, (2, d), dtype=np.uint64)
    np.testing.assert_array_equal(compiled_shuffling.shuffle(words), cycles.shuffle(words))


def test_places_where_the_words_are_crowded():
    words = RNG.integers(0, 2**64, (3, 500), dtype=np.uint64)
    words[1] >>= np.uint64(20)
    np.testing.assert_array_equal(compiled_shuffling.shuffle(words), cycles.shuffle(words))
