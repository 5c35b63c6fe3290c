"""RSO: the search by a loss that needs no network, and whole trainings, cached and not."""

import logging
from itertools import islice

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from small_network import assert_same_weights, dtype_policy, float64, matrices

from laperm_lib import permutation, weight_vectors
from laperm_lib._random import raw_bits
from laperm_lib.local_search import moves
from laperm_lib.local_search.losses import CachedLosses
from laperm_lib.optimizers import rso
from laperm_lib.optimizers.rso import RSO, search
from laperm_lib.paper import datasets

KINDS = weight_vectors.KINDS
DIGITS = datasets.load("digits", shape=(8, 8, 1))
X = (DIGITS.x_train[:150] / 255).astype("float32")
Y = DIGITS.y_train[:150]


def build(normalised=False, dtype="float32", seed=0, filters=3):
    keras.utils.set_random_seed(seed)
    # A bias before batch normalisation changes nothing: rounding would decide on its moves.
    bias = {"use_bias": False} if normalised else {"bias_initializer": "normal"}
    inner = [
        layers.Conv2D(filters, 3, strides=2, padding="same", dtype=dtype, **bias),
        *([layers.BatchNormalization(dtype=dtype)] if normalised else []),
        layers.ReLU(dtype=dtype),
        layers.Conv2D(filters, 3, activation="relu", dtype=dtype),
        layers.Flatten(dtype=dtype),
        layers.Dropout(0.5, dtype=dtype),
        layers.Dense(10, bias_initializer="normal", dtype=dtype),
    ]
    return keras.Sequential([keras.Input((8, 8, 1), dtype=dtype), *inner])


# -- the search ---------------------------------------------------------------------------------


class Distance:
    """Losses of weights that ought to be a target; `coupling` makes moves disturb each other."""

    def __init__(self, weights, target, coupling=0.0):
        self.weights, self.target, self.coupling = weights.copy(), target, coupling
        self.losses = [self._loss(self.weights)]

    @property
    def loss(self):
        return self.losses[-1]

    def _loss(self, weights):
        difference = weights - self.target
        coupled = self.coupling * difference.sum() ** 2 if self.coupling else 0.0
        return float((difference**2).sum() + coupled)

    def of(self, places, values):
        found = np.empty(values.shape[:2])
        for move, alternative in np.ndindex(found.shape):
            changed = self.weights.copy()
            changed.flat[places[move]] = values[move, alternative]
            found[move, alternative] = self._loss(changed)
        return found

    def keep(self, places, values):
        self.weights.flat[places] = values
        self.losses.append(self._loss(self.weights))


def drawn(seed, kind):
    generator = np.random.default_rng(seed)
    weights, target = generator.normal(size=(2, 6, 3))
    return weights, target, moves.KINDS[kind](weights, (-1,), 0.5, generator)


seeds, kinds, couplings = st.integers(0, 999), st.sampled_from(sorted(moves.KINDS)), [0.0, 3.0]


@given(seeds, kinds, st.sampled_from(couplings))
def test_one_at_a_time_is_the_published_rule(seed, kind, coupling):
    weights, target, found = drawn(seed, kind)
    expected = weights.copy()
    for vector in found:  # as it is read: the best of the present network and its alternatives
        for places, alternatives in zip(vector.places, vector.values, strict=True):
            candidates = [expected.copy() for _ in range(1 + len(alternatives))]
            for candidate, values in zip(candidates[1:], alternatives, strict=True):
                candidate.flat[places] = values
            expected = min(candidates, key=Distance(weights, target, coupling)._loss)
    losses = Distance(weights, target, coupling)
    search(losses, weights, found, together=1)
    np.testing.assert_array_equal(weights, expected)


@given(seeds, kinds, st.integers(1, 9), st.sampled_from(couplings))
def test_the_loss_never_rises_and_everything_is_counted(seed, kind, together, coupling):
    weights, target, found = drawn(seed, kind)
    losses = Distance(weights, target, coupling)
    before = weights.copy()
    updates, changed, candidates = search(losses, weights, found, together)
    np.testing.assert_array_equal(weights, losses.weights)
    assert losses.losses[-1] <= losses.losses[0]
    if together == 1:
        assert losses.losses == sorted(losses.losses, reverse=True)
    assert updates == sum(vector.places.size for vector in found)
    assert candidates == sum(vector.values[..., 0].size for vector in found)
    assert changed == np.count_nonzero(weights != before)


def test_moves_that_spoil_each_other_leave_the_best_of_them():
    weights, target = np.full((2, 1), 2.0), np.ones((2, 1))
    losses = Distance(weights, target, coupling=2.0)  # 10; 1.75 or 2 with one move, 5.75 with both
    found = [moves.Moves(np.array([[0], [1]]), np.array([[[0.5]], [[0.0]]]))]
    assert search(losses, weights, found, together=2).tolist() == [2, 1, 2]
    np.testing.assert_array_equal(weights, [[0.5], [2.0]])
    assert losses.loss == 1.75


@pytest.mark.parametrize("other", [np.nan, np.inf, 1.0 - 1e-16])
def test_neither_infinite_losses_nor_differences_of_rounding_decide(other):
    weights, target = np.ones((1, 1)), np.zeros((1, 1))
    found = [moves.Moves(np.array([[0]]), np.array([[[other]]]))]
    counts = search(Distance(weights, target), weights, found, together=1)
    assert (counts.tolist(), weights) == ([1, 0, 1], 1)


# -- the algorithm --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalised", "move", "together"),
    [(False, "addition", 1), (False, "exchange", 5), (True, "addition", 5), (True, "exchange", 1)],
)
def test_cached_losses_decide_as_recomputed_ones_to_the_bit(normalised, move, together):
    """In float64, where a decision that rounding could turn is next to impossible."""
    with float64():
        models, histories = [], []
        for cached in (True, False):
            model = build(normalised, "float64", filters=2)
            optimizer = RSO(cycles=1, batch_size=40, move=move, together=together, cached=cached)
            histories.append(optimizer.fit(model, X.astype("float64"), Y))
            models.append(model)
        assert_same_weights(*models)
        (one,), (other,) = histories
        assert one.changed == other.changed > one.candidates / 4


def test_the_rule_is_that_of_the_definition():
    """On a single dense layer, in loops of its own; sigma and the random numbers too."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 6)), generator.integers(0, 4, size=30)
    with float64():
        keras.utils.set_random_seed(1)
        dense = layers.Dense(4, dtype="float64")
        model = keras.Sequential([keras.Input((6,), dtype="float64"), dense])
        kernel, bias = (np.array(w) for w in model.get_weights())
        optimizer, sigma = RSO(cycles=1, batch_size=30, seed=3), kernel.std()
        assert optimizer.standard_deviations(model) == pytest.approx([sigma, sigma])
        optimizer.fit(model, x, y)

    def loss():
        logits = x @ kernel + bias
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])

    for number, array in ((1, bias), (0, kernel)):
        deltas = np.random.Generator(raw_bits(3, f"rso/{number}/0")).standard_normal(array.T.shape)
        for place, delta in np.ndenumerate(sigma * deltas):  # neuron by neuron
            candidates, losses = array[place[::-1]] + np.array([0, delta, -delta]), []
            for candidate in candidates:
                array[place[::-1]] = candidate
                losses.append(loss())
            array[place[::-1]] = candidates[np.argmin(losses)]
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-12)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_falls_and_the_network_learns(normalised):
    """The statistics of batch normalisation are those of the mini-batch, here of all samples."""
    model = build(normalised)
    before = loss_of(model)
    history = RSO(cycles=4, batch_size=150).fit(model, X, Y)
    losses = [cycle.loss for cycle in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * before
    assert losses[-1] == pytest.approx(loss_of(model), rel=1e-4)
    size = model.count_params() - 12 * normalised  # the two trained and two other vectors of it
    assert [cycle.updates for cycle in history] == [size] * 4
    assert [cycle.candidates for cycle in history] == [2 * size] * 4


def loss_of(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(ops.convert_to_numpy(loss(Y, model(X, training=False))))


@pytest.mark.parametrize(("together", "cached"), [(6, True), (1, False)])
def test_exchanges_keep_every_vector_a_permutation_always(together, cached, monkeypatch):
    """At every value that a variable is ever given, and in every cycle."""
    model = build(normalised=True)
    start, given, assign = matrices(model, KINDS), [], keras.Variable.assign
    vectors = {id(v.variable): v for v in weight_vectors.of(model, KINDS)}

    def watched(self, value):
        if v := vectors.get(id(self)):
            now = permutation.to_matrix(np.array(value), v.neuron_axes)
            given.append(permutation.is_permutation(start[v.path], now))
        return assign(self, value)

    monkeypatch.setattr(keras.Variable, "assign", watched)
    optimizer = RSO(
        cycles=2, batch_size=30, move="exchange", together=together, skip_batch_norm=False,
        exclude=[] if cached else ["conv"], cached=cached,
    )  # fmt: skip
    for cycle in optimizer.iterate(model, X, Y):
        now = matrices(model, KINDS)
        assert all(permutation.is_permutation(start[path], now[path]) for path in start)
        assert cycle.changed > 20
    assert len(given) >= (14 if cached else 150)
    assert all(given)


def test_a_bias_before_batch_normalisation_stays():
    """It changes nothing, and what changes nothing is not decided by rounding."""
    with float64(), dtype_policy("float64"):
        keras.utils.set_random_seed(0)
        conv = layers.Conv2D(8, 3, bias_initializer="normal")
        inner = [conv, layers.BatchNormalization(), layers.Flatten(), layers.Dense(10)]
        model = keras.Sequential([keras.Input((8, 8, 1), dtype="float64"), *inner])
        before = np.array(ops.convert_to_numpy(conv.bias))
        optimizer = RSO(cycles=2, batch_size=150, exclude=["kernel", "dense"])
        history = optimizer.fit(model, X.astype("float64"), Y)
        assert [(cycle.updates, cycle.changed) for cycle in history] == [(8, 0)] * 2
        np.testing.assert_array_equal(ops.convert_to_numpy(conv.bias), before)


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({}, "conv2d/kernel conv2d_1/kernel conv2d_1/bias dense/kernel dense/bias"),
        ({"skip_bias": True, "move": "exchange"}, "conv2d/kernel conv2d_1/kernel dense/kernel"),
        (
            {"exclude": ["conv", "dense"], "skip_batch_norm": False},
            "batch_normalization/gamma batch_normalization/beta",
        ),
    ],
)
def test_what_is_skipped_and_excluded_stays(arguments, changed):
    keras.backend.clear_session()  # for the names
    model = build(normalised=True)
    model.layers[1].gamma.assign([1.0, 2.0, 3.0])
    for variable in (model.layers[1].beta, model.layers[3].bias):
        variable.assign([0.1, 0.2, 0.3])
    before = {path: matrix.copy() for path, matrix in matrices(model, KINDS).items()}
    RSO(cycles=2, batch_size=40, **arguments).fit(model, X, Y)
    after = matrices(model, KINDS)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved == set(changed.split())


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_layer_is_left_as_it_is(frozen):
    models = [build(normalised=True, filters=2) for _ in range(2)]
    for model, cached in zip(models, (True, False), strict=True):
        model.layers[frozen].trainable = False
        before = [weight.copy() for weight in model.layers[frozen].get_weights()]
        RSO(cycles=1, cached=cached, batch_size=60, exclude="dense").fit(model, X, Y)
        after = model.layers[frozen].get_weights()
        assert all(map(np.array_equal, before[:2], after[:2]))  # not moving averages
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_sigma_falls_from_the_first_standard_deviation_to_the_last_scale():
    scales = [RSO(cycles=5, last_scale=0.2)._scale(cycle) for cycle in range(5)]
    assert scales == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert RSO(cycles=1)._scale(0) == 1


def test_any_other_network_is_recomputed_and_the_log_says_why(caplog):
    caplog.set_level(logging.INFO, "laperm_lib")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    both = [layers.Dense(10)(layers.Flatten()(inputs)) for _ in range(2)]
    model = keras.Model(inputs, layers.Add()(both))
    before = loss_of(model)
    RSO(cycles=1, exclude="kernel").fit(model, X, Y)
    assert loss_of(model) < before
    RSO(cycles=1).fit(build(), X[:20], Y[:20])
    [message] = caplog.messages
    assert "form a chain" in message


# -- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("move", ["addition", "exchange"])
def test_an_interrupted_search_resumes_as_if_it_had_not_been(move):
    uncut, resumed = build(), build(seed=1)
    optimizer = RSO(cycles=3, batch_size=50, move=move)
    deviations = optimizer.standard_deviations(uncut)
    cut = optimizer.iterate(uncut, X, Y)
    history = list(islice(cut, 2))
    resumed.set_weights(uncut.get_weights())
    history += optimizer.iterate(resumed, X, Y, first_cycle=2, standard_deviations=deviations)
    assert [cycle.number for cycle in history] == [1, 2, 3]
    assert next(cut) == history[2]
    assert_same_weights(uncut, resumed)


# -- bad input ------------------------------------------------------------------------------------


def test_impossible_arguments_are_refused():
    for name, value in [
        *(("cycles", 0), ("batch_size", 0), ("last_scale", 0), ("last_scale", 1.5)),
        *(("move", "swap"), ("together", 0), ("seed", -1), ("exclude", ["("])),
        *(("cached", "no"), ("cached", 0), ("skip_bias", "no"), ("cycles", 10**25)),
    ]:
        with pytest.raises(ValueError, match=f"(?i){name}"):
            RSO(**{name: value})


def probabilities():
    model = build()
    return keras.Sequential([model.inputs[0], *model.layers, layers.Softmax()])


def two_outputs():
    model = build()
    return keras.Model(model.inputs, [*model.outputs, *model.outputs])


REFUSED = {
    "probabilities": (probabilities, X, Y, {}, "gives probabilities"),
    "classes": (build, X, Y + 1, {}, "Classes are 0 to 9"),
    "negative": (build, X, Y - 1, {}, "Classes are 0 to 9"),
    "one-hot": (build, X, np.eye(10)[Y], {}, "integers of shape"),
    "floats": (build, X, Y[:, None] / 1, {"cached": False}, r"\(n,\) or \(n, 1\), got float64"),
    "lengths": (build, X, Y[:-1], {}, "make no batches"),
    "nothing left": (build, X, Y, {"exclude": "."}, "Nothing is left"),
    "all equal": (lambda: build(normalised=True), X, Y, {"skip_batch_norm": False}, "are equal"),
    "images out": (
        lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(3, 3)]),
        *(X, Y, {}, "Logits must have shape"),
    ),
    "two outputs": (two_outputs, X, Y, {}, "Logits must have shape"),
    **{  # as many numbers, which would be taken for those of other places
        f"layout {shape}": (build, X.reshape(-1, *shape), Y, {}, r"\(None, 8, 8, 1\), got")
        for shape in [(1, 8, 8), (64,), (8, 8)]
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_anything_is_changed(name):
    make, x, y, arguments, words = REFUSED[name]
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        RSO(cycles=1, **arguments).iterate(model, x, y)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_search_cannot_resume_where_it_has_not_been():
    for arguments, words in [
        *(({"first_cycle": cycle}, "first_cycle is") for cycle in (-1, 3, 0.5)),
        ({"standard_deviations": [0.1, 0.1]}, "as many standard deviations, got 2"),
    ]:
        with pytest.raises(ValueError, match=words):
            RSO(cycles=2).iterate(build(), X, Y, **arguments)
    assert list(RSO(cycles=2).iterate(build(), X, Y, first_cycle=2)) == []


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="The loss is nan"):
        RSO(cycles=1).fit(build(), np.full_like(X, np.nan), Y)


def test_progress_is_shown_if_asked_for(capsys):
    RSO(cycles=1, batch_size=20).fit(build(), X[:20], Y[:20])
    assert capsys.readouterr().out == ""
    RSO(cycles=1, batch_size=20).fit(build(), X[:20], Y[:20], verbose=1)
    assert "loss" in capsys.readouterr().out


def test_a_variable_is_never_fitted_to_a_few_samples_left_over(monkeypatch):
    sizes = []

    def noting(model, variable, x, y):
        sizes.append(len(x))
        return CachedLosses(model, variable, x, y)

    monkeypatch.setattr(rso, "kind_of_losses", lambda model: noting)
    for samples, expected in ((41, 20), (39, 20), (7, 7)):
        sizes.clear()
        RSO(cycles=2, batch_size=20).fit(build(), X[:samples], Y[:samples])
        assert sizes == [expected] * 12  # six variables, two cycles


@pytest.mark.parametrize("cached", [True, False])
def test_classes_in_a_column(cached):
    models = build(), build()
    for model, y in zip(models, (Y, Y[:, None]), strict=True):
        RSO(cycles=1, cached=cached, exclude="kernel").fit(model, X, y)
    assert_same_weights(*models)
