"""SGPerm's four steps, the compiled search that must equal them bit for bit, and its settings."""

import json
import time
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laperm_lib import permutation
from laperm_lib._random import raw_bits
from laperm_lib.cycles import compiled
from laperm_lib.cycles import reference as cycles
from laperm_lib.cycles.step import CycleSearch
from laperm_lib.errors import NonFiniteWeightError

RNG = np.random.default_rng(0)

# Equal weights, zeros of both signs, neighbours that differ in the last bit, and anything else.
values = st.one_of(
    st.integers(-3, 3).map(float),
    st.sampled_from([-1.0, -0.0, 0.0, 1.0, float(np.nextafter(np.float32(1), 2)), 1e-30, 3e38]),
    st.floats(-1, 1, width=32, allow_subnormal=False),
)
signs = st.sampled_from(["both", "more", "less"])


@st.composite
def vectors(draw, neurons=1):
    """The arguments of `permute_vectors`: all recommendations of one sign now and then."""
    shape = (neurons, draw(st.integers(1, 30)))
    weights = draw(hnp.arrays("float32", shape, elements=values))
    recommendation = draw(hnp.arrays("float32", shape, elements=values))
    sign = draw(signs)
    if sign != "both":
        recommendation = np.abs(recommendation) * np.float32(1 if sign == "less" else -1)
    places = np.array([draw(st.permutations(range(shape[1]))) for _ in range(neurons)], "int32")
    how = {
        "size": draw(st.integers(1, shape[1] + 2)),
        "alpha": draw(st.sampled_from([0.0, 0.1, 0.5, 2.0])),
        "spread": np.float64(weights.max(axis=1)) - np.float64(weights.min(axis=1)),
    }
    return weights, recommendation, places, how


def reference(weights, recommendation, places, how):
    rows = zip(weights, recommendation, places, how["spread"].tolist(), strict=True)
    part = {"size": how["size"], "alpha": how["alpha"]}
    return np.array([cycles.permute_vector(*row, spread=each, **part) for *row, each in rows])


def assert_same_bits(first, second):
    np.testing.assert_array_equal(first.view("uint32"), second.view("uint32"))


# -- recommendation and parts ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), ()])
def test_the_recommendation_is_a_gradient_with_momentum(shape):
    previous, gradient = map(np.array, RNG.normal(size=(2, *shape)).astype("float32"))
    new = cycles.recommend(previous, gradient, learning_rate=0.01, momentum=0.9)
    expected = np.float32(0.01) * gradient + np.float32(0.9) * previous
    np.testing.assert_array_equal(new, expected)
    assert isinstance(new, np.ndarray)
    assert (new.shape, new.dtype) == (shape, "float32")
    assert not cycles.recommend(new, new * 0, learning_rate=0.5, momentum=1e-44).any()
    least = np.full(shape, np.finfo("float32").tiny)  # that is not subnormal
    assert cycles.recommend(new * 0, least, learning_rate=1, momentum=0).all()


@pytest.mark.parametrize("d", [*range(1, 10), 64, 65, 784, 1023, 1024, 1025, 100_000])
def test_places_of_any_number_are_shuffled(d):
    words = RNG.integers(0, 2**64, (3, d), dtype=np.uint64)
    words[1] >>= np.uint64(20)  # crowded
    words[2] = RNG.choice(np.array([0, 1, 2**63, 2**64 - 1], "uint64"), d)
    places = cycles.shuffle(words)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(d), (3, 1)))
    np.testing.assert_array_equal(compiled.shuffle(words), places)


def test_the_order_is_that_of_the_words_and_stays_the_same():
    words = raw_bits(0, "test").random_raw(40).reshape(4, 10)
    places = cycles.shuffle(words)
    np.testing.assert_array_equal(places, np.argsort(words, axis=1))
    assert places[0].tolist() == [0, 2, 1, 4, 8, 9, 6, 7, 3, 5]
    assert cycles.shuffle(np.array([2, 0], "uint64")).tolist() == [1, 0]


def test_the_size_of_a_part():
    arguments = [(784, 0.05, 10), (784, 0.001, 10), (784, 1.0, 10), (5, 0.1, 10), (1, 1, 2)]
    assert [cycles.part_size(*each) for each in arguments] == [39, 10, 784, 5, 1]


# -- graph ---------------------------------------------------------------------------------------


@given(vectors(), st.sampled_from([0.0, 0.5, 1.0, 1e9]))
def test_the_graph_holds_all_wished_moves_and_no_other(arguments, epsilon):
    (weights,), (wishes,), (places,), how = arguments
    w, m = weights.astype(float), wishes
    part = places[: how["size"]].tolist()
    edges = cycles.graph(w.tolist(), m.tolist(), part, epsilon)
    assert set(edges) == {i for i in part if m[i] != 0}
    for i in edges:
        wished = {
            j
            for j in edges
            if (w[j] > w[i] if m[i] < 0 else w[j] < w[i]) and abs(w[j] - w[i]) <= epsilon
        }
        assert set(edges[i]) == wished
        assert len(edges[i]) == len(wished)
        # The nearest first; of equal ones those that want the other way.
        order = [(-np.sign(m[i]) * w[j], (m[j] < 0) == (m[i] < 0)) for j in edges[i]]
        assert order == sorted(order)


def test_further_ties_are_broken_by_the_walk_through_the_sorted_places():
    weights = [5.0, 7.0, 7.0, 7.0, 7.0, 9.0]
    wishes = [-1.0, -1.0, 1.0, -1.0, 1.0, 1.0]
    edges = cycles.graph(weights, wishes, range(6), epsilon=10)
    assert edges[0] == [2, 4, 1, 3, 5]
    assert edges[5] == [3, 1, 4, 2, 0]


# -- cycles --------------------------------------------------------------------------------------


@given(vectors())
def test_cycles_follow_the_graph_share_no_place_and_leave_none(arguments):
    (weights,), (wishes,), _, how = arguments
    w, m = weights.astype(float).tolist(), wishes.tolist()
    edges = cycles.graph(w, m, range(len(w)), how["spread"][0] * (how["alpha"] + 1 / len(w)))
    found = cycles.find_cycles(edges, m)
    for cycle in found:
        assert len(cycle) >= 2
        assert all(b in edges[a] for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        # A cycle begins with its largest recommendation.
        assert abs(m[cycle[0]]) == max(abs(m[i]) for i in cycle)
    members = [i for cycle in found for i in cycle]
    assert len(set(members)) == len(members)
    # What is left leads nowhere: it is empty once the places without a move are taken away, again
    # and again.
    left = set(edges) - set(members)
    while dead_ends := {i for i in left if not left & set(edges[i])}:
        left -= dead_ends
    assert not left


def test_a_cycle_that_can_be_followed_by_hand():
    #        place   0    1    2    3    4    5
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    m = np.array([-9.0, -1.0, 5.0, 8.0, -2.0, 0.0])
    edges = cycles.graph(weights.tolist(), m.tolist(), range(6), epsilon=2.0)
    assert edges == {0: [1, 2], 1: [2, 3], 2: [1, 0], 3: [2, 1], 4: []}
    # From 0 to its nearest, 1, which wants more too; from there to 2, which may take 0's weight.
    found = cycles.find_cycles(edges, m.tolist())
    assert found == [[0, 1, 2]]
    assert cycles.permute(weights, found).tolist() == [2.0, 3.0, 1.0, 4.0, 5.0, 6.0]


# -- permutation ---------------------------------------------------------------------------------


@given(vectors())
def test_every_weight_that_moves_moves_as_wished_and_not_too_far(arguments):
    (weights,), (wishes,), (places,), how = arguments
    new = reference(*arguments)[0]
    assert permutation.is_permutation(weights, new)
    change = new.astype(float) - weights.astype(float)
    assert ((change == 0) | ((change > 0) == (wishes < 0))).all()
    assert (change[wishes == 0] == 0).all()
    for first in range(0, len(places), how["size"]):
        part = places[first : first + how["size"]]
        epsilon = float(how["spread"][0]) * (how["alpha"] + 1 / len(part))
        assert (np.abs(change[part]) <= epsilon).all()
        assert permutation.is_permutation(weights[part], new[part])


# -- the compiled search -------------------------------------------------------------------------


@given(vectors(neurons=3))
def test_the_compiled_search_equals_the_reference(arguments):
    *arrays, how = arguments
    assert_same_bits(compiled.permute_vectors(*arrays, **how), reference(*arguments))


def dense(shape):
    return RNG.uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize("size", [1, 2, 10, 39, 784, 1000])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    "weights",
    [
        dense((6, 784)),
        np.where(RNG.random((6, 784)) < 0.9, 0, dense((6, 784))),  # sparse
        np.where(RNG.random((6, 784)) < 0.6, 0, np.float32(0.08)),  # one value
        RNG.integers(-9, 10, (6, 784)).astype("float32"),
    ],
    ids=["distinct", "sparse", "shared", "ties"],
)
def test_the_compiled_search_on_weights_of_networks(weights, size, alpha):
    wishes = RNG.normal(size=weights.shape).astype("float32")
    wishes[:, ::7] = 0
    places = cycles.shuffle(RNG.integers(0, 2**64, weights.shape, dtype=np.uint64))
    how = {"size": size, "alpha": alpha, "spread": np.ptp(weights, axis=1)}
    new = compiled.permute_vectors(weights, wishes, places, **how)
    assert_same_bits(new, reference(weights, wishes, places, how))


def many():
    """Enough weights for several threads, one weight vector a column in memory."""
    weights, wishes = dense((300, 70)).T, dense((300, 70)).T
    places = cycles.shuffle(RNG.integers(0, 2**64, weights.shape, dtype=np.uint64))
    return weights, wishes, places, {"size": 30, "alpha": 0.1, "spread": np.full(70, 2.0)}


@pytest.mark.parametrize("least", [1, 5000, 10**9])
@pytest.mark.parametrize("spread", [2.0, np.inf])  # nothing is taken from outside of a part
def test_any_number_of_blocks_gives_the_same(least, spread, monkeypatch):
    *arrays, how = many()
    how |= {"spread": np.full(70, spread)}
    monkeypatch.setattr(compiled, "_LEAST_BLOCK", least)
    assert_same_bits(compiled.permute_vectors(*arrays, **how), reference(*arrays, how))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights, wishes, places, how = many()
    weights = weights.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    new = compiled.permute_vectors(weights, wishes, places, **how)
    assert new.dtype == weights.dtype
    np.testing.assert_array_equal(new, reference(weights, wishes, places, how))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_is_refused(which, wrong):
    *arrays, how = many()
    arrays[which] = arrays[which].copy()
    arrays[which][3, 5] = wrong
    with pytest.raises(NonFiniteWeightError):
        compiled.permute_vectors(*arrays, **how)
    with pytest.raises(NonFiniteWeightError):
        reference(*arrays, how)


@pytest.mark.parametrize("wants", ["more", "less", "away", "either"])
def test_long_parts_in_which_everything_is_within_reach_take_no_longer(wants):
    """A search through all edges would make 10^10 trials."""
    d = 200_000
    weights = dense((1, d))
    wishes = {
        "more": -np.ones((1, d)),
        "less": np.ones((1, d)),
        "away": -weights,  # the large ones want more, the small ones less: nothing can move
        "either": RNG.normal(size=(1, d)),
    }[wants].astype("float32")
    places = RNG.permutation(d).astype("int32")[None]
    compiled.permute_vectors(*many()[:3], **many()[3])  # compiled before the clock starts
    started = time.process_time()
    new = compiled.permute_vectors(
        weights, wishes, places, size=d, alpha=1.0, spread=np.array([2.0])
    )
    assert time.process_time() - started < 5
    assert np.array_equal(new, weights) == (wants != "either")


# -- a step of a variable ------------------------------------------------------------------------

SETTINGS = {
    "alpha0": 0.1, "alpha_min": 0.01, "beta1": 0.9, "lambda0": 0.1, "lambda_max": 0.5,
    "beta2": 1.1, "momentum": 0.9, "partition_size_min": 10, "seed": 3,
}  # fmt: skip


def test_alpha_and_lambda_follow_their_recurrences():
    search = CycleSearch(**SETTINGS)
    alpha, ratio = search.alpha0, search.lambda0
    for step in range(60):
        assert search.aggressiveness(step) == pytest.approx(alpha, rel=1e-12)
        assert search.partition_ratio(step) == pytest.approx(ratio, rel=1e-12)
        alpha, ratio = max(0.9 * alpha, 0.01), min(1.1 * ratio, 0.5)
    assert search.aggressiveness(10**9) == 0.01
    assert search.partition_ratio(10**9) == 0.5


@pytest.mark.parametrize(
    ("shape", "neuron_axes"),
    [((30, 8), (-1,)), ((3, 3, 4, 6), (-1,)), ((4, 5, 4, 2), (-2, -1)), ((12,), ()), ((), ())],
)
@pytest.mark.parametrize("step", [0, 7])
def test_each_weight_vector_is_permuted_as_the_reference_does_it(shape, neuron_axes, step):
    search = CycleSearch(**SETTINGS)
    rng = np.random.default_rng(1)  # of which each array but () has a cycle to permute
    weights, wishes = map(np.array, rng.normal(size=(2, *shape)).astype("float32"))
    matrix, m = (permutation.to_matrix(array, neuron_axes) for array in (weights, wishes))
    spread = np.ptp(matrix, axis=1)
    new = search.permute(weights, wishes, spread, neuron_axes=neuron_axes, number=2, step=step)
    words = raw_bits(3, f"sgperm/2/{step}").random_raw(weights.size).reshape(matrix.shape)
    how = {
        "size": max(10, int(search.partition_ratio(step) * matrix.shape[1])),
        "alpha": search.aggressiveness(step),
        "spread": spread,
    }
    expected = reference(matrix, m, cycles.shuffle(words), how)
    np.testing.assert_array_equal(permutation.to_matrix(new, neuron_axes), expected)
    assert new.flags.c_contiguous
    assert np.array_equal(new, weights) == (shape == ())


def test_the_settings_as_json():
    numbers = {"seed": np.int64(3), "beta1": np.float32(1), "beta2": 2, "partition_size_min": 2}
    search = CycleSearch(**SETTINGS | numbers)
    assert CycleSearch(**json.loads(json.dumps(asdict(search)))) == search


def test_values_out_of_range_are_named():
    for name, *values in [
        ("alpha0", -0.1, 0.001, np.nan, np.inf, "0.1"),  # below alpha_min, 0.01
        ("alpha_min", -1),
        ("beta1", 0, 1.1),
        ("lambda0", 0, 0.6),  # above lambda_max, 0.5
        ("lambda_max", 1.5, 0),
        ("beta2", 0.99),
        ("momentum", 1.0, -0.5, True),
        ("partition_size_min", 1, 10.0),
        ("seed", -1),
    ]:
        for value in values:
            with pytest.raises(ValueError, match=name if name != "seed" else "A seed"):
                CycleSearch(**SETTINGS | {name: value})
