"""SGPerm's hyperparameters, and a step on the arrays of a variable."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from laperm_lib import permutation
from laperm_lib._random import raw_bits
from laperm_lib.cycles import reference as cycles
from laperm_lib.cycles.step import CycleSearch

RNG = np.random.default_rng(0)
SETTINGS = {
    "alpha0": 0.1,
    "alpha_min": 0.01,
    "beta1": 0.9,
    "lambda0": 0.1,
    "lambda_max": 0.5,
    "beta2": 1.1,
    "momentum": 0.9,
    "partition_size_min": 10,
    "seed": 3,
}


def test_alpha_and_lambda_follow_their_recurrences():
    how = CycleSearch(**SETTINGS)
    alpha, ratio = how.alpha0, how.lambda0
    for step in range(60):
        assert how.aggressiveness(step) == pytest.approx(alpha, rel=1e-12)
        assert how.partition_ratio(step) == pytest.approx(ratio, rel=1e-12)
        alpha, ratio = max(how.beta1 * alpha, how.alpha_min), min(how.beta2 * ratio, how.lambda_max)
    assert how.aggressiveness(10**9) == 0.01
    assert how.partition_ratio(10**9) == 0.5


@pytest.mark.parametrize(
    ("shape", "neuron_axes"),
    [((30, 8), (-1,)), ((3, 3, 4, 6), (-1,)), ((4, 5, 4, 2), (-2, -1)), ((12,), ())],
)
@pytest.mark.parametrize("step", [0, 7])
def test_each_weight_vector_is_rearranged_as_the_reference_does_it(shape, neuron_axes, step):
    how = CycleSearch(**SETTINGS)
    weights, wishes = RNG.normal(size=(2, *shape)).astype("float32")
    matrix, m = (permutation.to_matrix(array, neuron_axes) for array in (weights, wishes))
    spread = matrix.max(axis=1) - matrix.min(axis=1)
    new = how.permute(weights, wishes, spread, neuron_axes=neuron_axes, number=2, step=step)

    words = raw_bits(3, f"sgperm/2/{step}").random_raw(weights.size).reshape(matrix.shape)
    size = max(10, int(how.partition_ratio(step) * matrix.shape[1]))
    alpha = how.aggressiveness(step)
    expected = [
        cycles.permute_vector(*row, size=size, alpha=alpha, spread=float(range_))
        for *row, range_ in zip(matrix, m, cycles.shuffle(words), spread, strict=True)
    ]
    np.testing.assert_array_equal(permutation.to_matrix(new, neuron_axes), expected)
    assert new.flags.c_contiguous
    assert not np.array_equal(new, weights)


def test_a_variable_that_is_one_number_stays_one():
    number, spread = np.array(2, "float32"), np.zeros(1, "float32")
    how = CycleSearch(**SETTINGS)
    new = how.permute(number, -number, spread, neuron_axes=(), number=0, step=0)
    assert (new.shape, float(new)) == ((), 2)


@pytest.mark.parametrize("change", [{"seed": 4}, {"number": 1}, {"step": 1}, {}])
def test_the_parts_depend_on_seed_number_and_step(change):
    weights, wishes = RNG.normal(size=(2, 40, 5)).astype("float32")
    constant = {"alpha0": 0.01, "beta1": 1.0, "beta2": 1.0}

    def rearranged(seed=3, number=0, step=0):
        how = CycleSearch(**SETTINGS | constant | {"seed": seed})
        spread = np.ptp(weights, axis=0)
        where = {"neuron_axes": (-1,), "number": number, "step": step}
        return how.permute(weights, wishes, spread, **where)

    assert np.array_equal(rearranged(), rearranged(**change)) == (not change)


def test_as_json():
    how = CycleSearch(**SETTINGS | {"seed": np.int64(3), "beta1": np.float32(1), "beta2": 2})
    assert CycleSearch(**json.loads(json.dumps(asdict(how)))) == how


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha0": -0.1},
        {"alpha0": 0.001},  # below alpha_min
        {"alpha0": np.nan},
        {"alpha0": np.inf},
        {"alpha0": "0.1"},
        {"alpha_min": -1},
        {"beta1": 0},
        {"beta1": 1.1},
        {"lambda0": 0},
        {"lambda0": 0.6},  # above lambda_max
        {"lambda_max": 1.5},
        {"beta2": 0.99},
        {"momentum": 1.0},
        {"momentum": True},
        {"partition_size_min": 1},
        {"partition_size_min": 10.0},
        {"seed": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name if name != "seed" else "A seed"):
        CycleSearch(**SETTINGS | wrong)
