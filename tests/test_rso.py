"""RSO as users meet it: additions and exchanges, cached and not, cut and gone on."""

from itertools import islice

import keras
import numpy as np
import pytest
import small_network
from keras import layers, ops
from small_network import float64

from laperm_lib import UnknownLayerError, permutation, weight_vectors
from laperm_lib.optimizers import rso
from laperm_lib.optimizers.rso import RSO
from laperm_lib.paper import datasets

BACKEND = keras.backend.backend()
DIGITS = datasets.load("digits", shape=(8, 8, 1))
X = (DIGITS.x_train[:150] / 255).astype("float32")
Y = DIGITS.y_train[:150]
ROWS = X[:, 4, :, 0]  # of pixels in the middle


def build(normalised=False, dtype="float32", seed=0, filters=3):
    keras.utils.set_random_seed(seed)
    kwargs = {"dtype": dtype}
    model = keras.Sequential([keras.Input((8, 8, 1), dtype=dtype)])
    # A bias in front of batch normalisation changes nothing: rounding would decide on its moves.
    bias = {"use_bias": False} if normalised else {"bias_initializer": "normal"}
    model.add(layers.Conv2D(filters, 3, strides=2, padding="same", **bias, **kwargs))
    if normalised:
        model.add(layers.BatchNormalization(**kwargs))
    model.add(layers.ReLU(**kwargs))
    model.add(layers.Conv2D(filters, 3, activation="relu", **kwargs))
    model.add(layers.Flatten(**kwargs))
    model.add(layers.Dropout(0.5, **kwargs))
    model.add(layers.Dense(10, bias_initializer="normal", **kwargs))
    return model


def matrices(model):
    return [vectors.matrix() for vectors in weight_vectors.of(model, weight_vectors.KINDS)]


def assert_same_weights(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# -- the algorithm --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("move", ["addition", "exchange"])
@pytest.mark.parametrize("together", [1, 5])
def test_cached_losses_decide_as_recomputed_ones_to_the_bit(normalised, move, together):
    """In float64, where a decision that rounding could turn is next to impossible."""
    with float64():
        models, histories = [], []
        for cached in (True, False):
            model = build(normalised, "float64", filters=2)
            start = matrices(model)
            search = RSO(cycles=1, batch_size=40, move=move, together=together, cached=cached)
            histories.append(search.fit(model, X.astype("float64"), Y))
            models.append(model)
        assert_same_weights(*models)
        (one,), (other,) = histories
        assert one.changed == other.changed > one.candidates / 4
        assert any(
            not np.array_equal(old, new) for old, new in zip(start, matrices(model), strict=True)
        )


def test_in_float32_nearly_all_decisions_are_the_same():
    """Until the first that rounding turns, all are; from there on two networks are compared."""
    models = [build(), build()]
    dense = ["conv2d"]  # the last layer alone: its decisions are independent of the backend's sums
    for model, cached in zip(models, (True, False), strict=True):
        RSO(cycles=1, batch_size=150, exclude=dense, cached=cached).fit(model, X, Y)
    first, second = (model.get_weights()[-2] for model in models)
    assert (first == second).mean() > 0.95


def reference(kernel, bias, x, y, deltas):
    """RSO's rule on a single dense layer, in loops of its own."""

    def loss():
        logits = x @ kernel + bias
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])

    for array, delta in ((bias, deltas[0]), (kernel, deltas[1])):
        for place in np.ndindex(array.T.shape):  # neuron by neuron
            place = place[::-1]
            old, best = array[place], loss()
            winner = old
            for candidate in (old + delta[place], old - delta[place]):
                array[place] = candidate
                if loss() < best:
                    best, winner = loss(), candidate
            array[place] = winner
    return kernel, bias


def test_the_rule_is_that_of_the_definition():
    with float64():
        keras.utils.set_random_seed(1)
        dense = layers.Dense(4, dtype="float64")
        model = keras.Sequential([keras.Input((6,), dtype="float64"), dense])
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(30, 6)), generator.integers(0, 4, size=30)
        kernel, bias = (np.array(w) for w in model.get_weights())
        search = RSO(cycles=1, batch_size=30, seed=3)
        sigma = kernel.std()
        assert search.spreads(model) == pytest.approx([sigma, sigma])

        from laperm_lib._random import raw_bits

        def normal(number, shape):
            numbers = np.random.Generator(raw_bits(3, f"rso/{number}/0")).standard_normal(shape)
            return sigma * numbers

        deltas = normal(1, (1, 4))[0], normal(0, (4, 6)).T
        search.fit(model, x, y)
        kernel, bias = reference(kernel, bias, x, y, deltas)
        np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-12)
        np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-12)


def test_the_loss_falls_and_the_network_learns():
    model = build()
    before = loss_of(model)
    history = RSO(cycles=4, batch_size=150).fit(model, X, Y)
    losses = [cycle.loss for cycle in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * before
    assert losses[-1] == pytest.approx(loss_of(model), rel=1e-4)  # all samples in one mini-batch
    size = model.count_params()
    assert [cycle.updates for cycle in history] == [size] * 4
    assert [cycle.candidates for cycle in history] == [2 * size] * 4


def loss_of(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(ops.convert_to_numpy(loss(Y, model(X, training=False))))


@pytest.mark.parametrize("move", ["addition", "exchange"])
@pytest.mark.parametrize("together", [1, 7])
def test_no_move_raises_the_loss_on_its_mini_batch(move, together, monkeypatch):
    from laperm_lib.local_search.cached_losses import CachedLosses

    falls, keep = [], CachedLosses.keep

    def watched(self, places, values):
        before = self.loss
        keep(self, places, values)
        falls.append(before - self.loss)

    monkeypatch.setattr(CachedLosses, "keep", watched)
    model = build()
    RSO(cycles=1, batch_size=60, move=move, together=together).fit(model, X, Y)
    assert len(falls) >= 20
    if together == 1:
        assert min(falls) > 0
    assert sum(falls) > 0


@pytest.mark.parametrize("together", [1, 6])
@pytest.mark.parametrize("cached", [True, False])
def test_exchanges_keep_every_vector_a_permutation_always(together, cached, monkeypatch):
    """At every value that a variable is ever given, and in every cycle."""
    model = build(normalised=True)
    start = matrices(model)
    variables = weight_vectors.of(model, weight_vectors.KINDS)
    given = []
    assign = keras.Variable.assign

    def watched(self, value):
        given.extend(
            permutation.is_permutation(old, permutation.to_matrix(np.array(value), v.neuron_axes))
            for old, v in zip(start, variables, strict=True)
            if v.variable is self
        )
        return assign(self, value)

    monkeypatch.setattr(keras.Variable, "assign", watched)
    search = RSO(
        cycles=2, batch_size=30, move="exchange", together=together, skip_batch_norm=False,
        exclude=[] if cached else ["conv"], cached=cached,
    )  # fmt: skip
    for cycle in search.iterate(model, X, Y):
        now = matrices(model)
        assert all(map(permutation.is_permutation, start, now))
        assert cycle.changed > 20
    assert len(given) >= (14 if cached else 150)
    assert all(given)


def test_statistics_of_batch_normalisation_are_those_of_the_last_mini_batch():
    model = build(normalised=True)
    moving = model.layers[1].moving_variance
    before = np.array(ops.convert_to_numpy(moving))
    [cycle] = RSO(cycles=1, batch_size=150).fit(model, X, Y)
    assert not np.array_equal(before, ops.convert_to_numpy(moving))
    assert loss_of(model) == pytest.approx(cycle.loss, rel=1e-4)


def test_a_bias_before_batch_normalisation_stays():
    """It changes nothing, and what changes nothing is not decided by rounding."""
    with float64():
        model = build(normalised=True, dtype="float64")
        before = np.array(model.get_weights()[1])
        RSO(cycles=2, batch_size=150, exclude=["kernel", "dense"]).fit(
            model, X.astype("float64"), Y
        )
        np.testing.assert_array_equal(model.get_weights()[1], before)


@pytest.mark.parametrize("move", ["addition", "exchange"])
def test_what_is_skipped_and_excluded_stays(move):
    model = build(normalised=True)
    model.layers[1].gamma.assign([1.0, 2.0, 3.0])
    model.layers[1].beta.assign([0.1, 0.2, 0.3])
    names = [variable.path for variable in model.trainable_variables]
    for arguments, changed in [
        ({}, {"kernel", "bias"}),
        ({"skip_bias": True}, {"kernel"}),
        ({"skip_bias": True, "skip_batch_norm": False}, {"kernel", "gamma", "beta"}),
        ({"skip_bias": True, "exclude": "conv"}, {"kernel"}),
    ]:
        before = [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]
        RSO(cycles=1, batch_size=40, move=move, **arguments).fit(model, X, Y)
        after = [ops.convert_to_numpy(v) for v in model.trainable_variables]
        moved = {
            name
            for name, old, new in zip(names, before, after, strict=True)
            if not np.array_equal(old, new)
        }
        assert {name.split("/")[-1] for name in moved} <= changed
        assert any("kernel" in name for name in moved)
        if "exclude" in arguments:
            assert not any("conv" in name for name in moved)


def test_sigma_falls_from_the_first_spread_to_the_last_scale():
    search = RSO(cycles=5, last_scale=0.2)
    assert [search._scale(cycle) for cycle in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert RSO(cycles=1)._scale(0) == 1


def test_any_network_without_the_cache():
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Flatten()(layers.Conv2D(1, 4, strides=4)(inputs))
    other = layers.Flatten()(layers.Conv2D(1, 4, strides=4)(inputs))
    model = keras.Model(inputs, layers.Dense(10)(layers.Add()([hidden, other])))
    before = loss_of(model)
    with pytest.raises(ValueError, match="no chain"):
        RSO().fit(model, X, Y)
    RSO(cycles=1, cached=False).fit(model, X, Y)
    assert loss_of(model) < before


# -- seeds, and going on --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_training_and_another_another():
    models = [build() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        RSO(cycles=1, batch_size=50, seed=seed).fit(model, X, Y)
    assert_same_weights(models[0], models[1])
    assert not np.array_equal(models[0].get_weights()[0], models[2].get_weights()[0])


@pytest.mark.parametrize("move", ["addition", "exchange"])
def test_a_search_goes_on_as_if_it_had_not_been_cut(move):
    uncut, resumed = build(), build(seed=1)
    search = RSO(cycles=3, batch_size=50, move=move)
    spreads = search.spreads(uncut)
    cycles = list(islice(search.iterate(uncut, X, Y), 2))
    resumed.set_weights(uncut.get_weights())
    rest = list(search.iterate(resumed, X, Y, first_cycle=2, spreads=spreads))
    search = RSO(cycles=3, batch_size=50, move=move)
    whole = build()
    assert [cycle.number for cycle in search.fit(whole, X, Y)] == [1, 2, 3]
    assert len(cycles) == 2
    assert rest[0].number == 3
    assert_same_weights(whole, resumed)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"cycles": 0},
        {"batch_size": 0},
        {"last_scale": 0},
        {"last_scale": 1.5},
        {"move": "swap"},
        {"together": 0},
        {"seed": -1},
        {"exclude": ["("]},
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(
        ValueError, match=next(iter(arguments)) if "seed" not in arguments else "seed"
    ):
        RSO(**arguments)


def probabilities():
    model = build()
    return keras.Sequential([model.inputs[0], *model.layers, layers.Softmax()])


REFUSED = {
    "probabilities": (probabilities, X, Y, {}, "gives probabilities"),
    "classes": (build, X, Y + 1, {}, "classes 0 to 9"),
    "negative": (build, X, Y - 1, {}, "classes 0 to 9"),
    "one-hot": (build, X, np.eye(10)[Y], {}, "integers of shape"),
    "lengths": (build, X, Y[:-1], {}, "make no batches"),
    "nothing left": (build, X, Y, {"exclude": "."}, "Nothing is left"),
    "no spread": (lambda: build(normalised=True), X, Y, {"skip_batch_norm": False}, "are equal"),
    "images out": (
        lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(3, 3)]),
        *(X, Y, {}, "Logits have the shape"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_anything_is_changed(name):
    make, x, y, arguments, words = REFUSED[name]
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        RSO(cycles=1, **arguments).iterate(model, x, y)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("first_cycle", [-1, 3, 0.5])
def test_a_cycle_that_there_is_not_is_refused(first_cycle):
    with pytest.raises(ValueError, match="first_cycle is"):
        RSO(cycles=2).iterate(build(), X, Y, first_cycle=first_cycle)
    assert list(RSO(cycles=2).iterate(build(), X, Y, first_cycle=2)) == []


def test_spreads_of_another_search_are_refused():
    with pytest.raises(ValueError, match="spreads of 2"):
        RSO().iterate(build(), X, Y, spreads=[0.1, 0.1])


def test_a_loss_that_is_not_finite_is_an_error():
    model = build()
    x = X.copy()
    x[:] = np.nan
    with pytest.raises(ValueError, match="The loss is nan"):
        RSO(cycles=1).fit(model, x, Y)


def test_layers_nobody_knows_are_named():
    @keras.saving.register_keras_serializable()
    class Scale(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor

    model = keras.Sequential([keras.Input((4,)), Scale(), layers.Dense(3)])
    with pytest.raises(UnknownLayerError, match="factor"):
        RSO(cached=False).fit(model, np.ones((2, 4)), np.zeros(2, int))


def test_progress_is_shown_if_asked_for(capsys):
    RSO(cycles=1, batch_size=20).fit(build(), X[:20], Y[:20])
    assert capsys.readouterr().out == ""
    RSO(cycles=1, batch_size=20).fit(build(), X[:20], Y[:20], verbose=1)
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize("cached", [True, False])
def test_a_variable_is_never_fitted_to_a_few_samples_left_over(cached, monkeypatch):
    name = "CachedLosses" if cached else "RecomputedLosses"
    losses, sizes = getattr(rso, name), []

    def noting(model, variable, x, y):
        sizes.append(len(x))
        return losses(model, variable, x, y)

    monkeypatch.setattr(rso, name, noting)
    for samples, expected in ((41, 20), (39, 20), (20, 20), (7, 7)):
        sizes.clear()
        RSO(cycles=2, batch_size=20, cached=cached).fit(small(), ROWS[:samples], Y[:samples])
        assert sizes == [expected] * 8  # four variables, two cycles


@pytest.mark.parametrize("frozen", ["a", "b", "normalisation"])
def test_a_frozen_layer_is_left_as_it_is(frozen):
    models = []
    for cached in (True, False):
        model = small(frozen)
        before = [weight.copy() for weight in model.get_layer(frozen).get_weights()]
        RSO(cycles=2, cached=cached).fit(model, ROWS, Y)
        after = model.get_layer(frozen).get_weights()
        for old, new in list(zip(before, after, strict=True))[:2]:  # not moving averages
            np.testing.assert_array_equal(old, new)
        models.append(model)
    cached, recomputed = models
    for one, other in zip(cached.get_weights(), recomputed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def small(frozen=None):
    """A network of `ROWS`; both layers have kernel and bias."""
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(4, name="a", bias_initializer="normal"), layers.ReLU()]
    if frozen == "normalisation":
        hidden.insert(1, layers.BatchNormalization(name="normalisation"))
        hidden[0].use_bias = False
    model = keras.Sequential(
        [
            keras.Input((8,)),
            *hidden,
            layers.Dense(10, name="b", bias_initializer="normal"),
        ]
    )
    if frozen:
        model.get_layer(frozen).trainable = False
    return model


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 6), (72,), (6, 12)])
def test_inputs_of_another_layout_are_refused_before_anything_changes(shape, cached):
    """With as many numbers: they would be taken for those of other places."""
    model = small_network.build_model()
    before = model.get_weights()
    optimizer = RSO(cycles=1, batch_size=small_network.BATCH, cached=cached)
    with pytest.raises(ValueError, match=r"have the shape \(None, 6, 6, 2\), got"):
        optimizer.fit(model, small_network.X.reshape(-1, *shape), small_network.Y)
    for first, second in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_subclassed_model_is_trained_by_recomputed_losses():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

        def call(self, x):
            return self.dense(self.flat(x))

    keras.utils.set_random_seed(0)
    model = Own()
    model(small_network.X[:1])
    before = model.get_weights()
    RSO(cycles=1, batch_size=20, cached=False).fit(
        model, small_network.X[:20], small_network.Y[:20]
    )
    assert any(not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
