"""Other weights in the place of a model's own, and back, bit for bit."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib import LaPerm
from laperm_lib.callbacks import swapping
from laperm_lib.callbacks.swapping import laperm_of, replace, replaced, weights_of

X = np.random.default_rng(0).normal(2, 3, (24, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 3)).astype("float32")


def network(normalised=False):
    keras.utils.set_random_seed(1)
    normalisation = [layers.BatchNormalization()] if normalised else []
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="relu"), *normalisation, layers.Dense(3)]
    )


def trained_by_laperm(normalised=False):
    model = network(normalised)
    model.compile(LaPerm("sgd", sync_period=1), loss="mse")
    model.fit(X, Y, verbose=0)
    return model


def everything(model):
    """All variables as bytes, for NaN and signed zeros too."""
    return [np.array(ops.convert_to_numpy(variable)).tobytes() for variable in model.variables]


def others(model):
    return [array + 1 for array in weights_of(model)]


def enter(*args, **options):
    with replaced(*args, **options):
        pytest.fail("It must not get here.")


def assert_equal(some, more):
    for one, other in zip(some, more, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_come_and_go_with_a_with():
    model = network(normalised=True)
    model.layers[0].kernel.assign(np.where(X[:4, :1] > 0, np.float32(-0.0), np.nan).repeat(5, 1))
    before, new = everything(model), others(network(normalised=True))
    with replaced(model, new, batches=[X]):
        assert_equal(weights_of(model), new)
    assert everything(model) == before


def test_weights_are_back_when_something_raises():
    model = network(normalised=True)
    before = everything(model)
    with pytest.raises(KeyError), replaced(model, others(model), batches=[X]):
        raise KeyError
    assert everything(model) == before


def test_statistics_belong_to_the_new_weights():
    model, other = network(normalised=True), network(normalised=True)
    new = others(model)
    with replaced(model, new, batches=[X[:10], X[10:]]):
        inside = everything(model)
    other.set_weights([*new[:2], *new[2:4], *other.get_weights()[4:6], *new[4:]])
    replace(other, weights_of(other), batches=[X[:10], X[10:]])
    assert everything(other) == inside
    mean = ops.convert_to_numpy(other.layers[1].moving_mean)
    hidden = np.maximum(X @ new[0] + new[1], 0)
    np.testing.assert_allclose(mean, hidden.mean(axis=0), rtol=1e-4)


def test_statistics_can_be_left_alone_for_good():
    model = network(normalised=True)
    mean = np.array(ops.convert_to_numpy(model.layers[1].moving_mean))
    new = others(model)
    replace(model, new, batches=None)
    assert_equal(weights_of(model), new)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.layers[1].moving_mean), mean)


def test_an_average_of_permutations_is_synchronised():
    model = trained_by_laperm()
    optimizer, before = model.optimizer, everything(model)
    with replaced(model, others(model), synchronise=True):
        assert optimizer.is_permutation()
        bias = ops.convert_to_numpy(model.layers[0].bias)
    assert everything(model) == before
    np.testing.assert_array_equal(bias, ops.convert_to_numpy(model.layers[0].bias) + 1)
    with replaced(model, others(model)):
        assert not optimizer.is_permutation()


@pytest.mark.parametrize(
    ("build", "change", "options", "message"),
    [
        (network, others, {"synchronise": True}, "Only a model that LaPerm trains"),
        (network, lambda model: others(model)[:-1], {}, "shapes"),
        (network, lambda model: [w.T for w in others(model)], {}, "shapes"),
        (lambda: network(True), others, {}, "no samples"),
        (
            trained_by_laperm,
            lambda m: [w * np.nan for w in others(m)],
            {"synchronise": True},
            "NaN",
        ),
        (lambda: trained_by_laperm(True), others, {"synchronise": True}, "no samples"),
    ],
)
@pytest.mark.parametrize("for_good", [True, False])
def test_nothing_is_changed_by_what_fails(build, change, options, message, for_good):
    model = build()
    before = everything(model)
    new = change(model)
    put = replace if for_good else enter
    with pytest.raises(ValueError, match=message):
        put(model, new, **options)
    assert everything(model) == before


def test_laperm_is_found_where_it_is():
    laperm = LaPerm("sgd", sync_period=1)
    model = network()
    for optimizer in (laperm, keras.optimizers.LossScaleOptimizer(laperm)):
        model.compile(optimizer, loss="mse")
        assert laperm_of(model) is laperm
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), loss="mse")
    with pytest.raises(ValueError, match="is sgd"):
        laperm_of(model)


def test_batch_normalisation_is_found_in_nested_models():
    assert not swapping.has_batch_normalization(network())
    nested = keras.Sequential([keras.Input((4,)), network(normalised=True)])
    assert swapping.has_batch_normalization(nested)
