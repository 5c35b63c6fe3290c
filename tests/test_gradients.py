"""Gradients outside of training: by hand, by differences, and without a trace in the model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib.gradients import gradients

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, size=20)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.PReLU(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        ]
    )


def everything(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


def test_two_layers_as_calculus_has_it():
    """Softmax cross-entropy of a network with one hidden layer, differentiated by hand in NumPy."""
    x, y = RNG.normal(size=(7, 4)), RNG.integers(0, 3, size=7)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.Dense(3)]
    )
    w1, b1, w2, b2 = RNG.normal(size=(4, 5)), RNG.normal(size=5), RNG.normal(size=(5, 3)), [0.1] * 3
    model.set_weights([w1, b1, w2, np.array(b2)])
    hidden = np.tanh(x @ w1 + b1)
    logits = hidden @ w2 + b2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_logits = (probabilities - np.eye(3)[y]) / len(x)
    of_hidden = of_logits @ w2.T * (1 - hidden**2)
    expected = [x.T @ of_hidden, of_hidden.sum(0), hidden.T @ of_logits, of_logits.sum(0)]
    for found, wanted in zip(gradients(model, x, y, LOSS), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_small_step_against_them_lowers_the_loss_by_so_much(training):
    model = network()
    model.layers[3].rate = 0  # two calls in training mode drop different neurons
    model.layers[1].moving_mean.assign([0.5, -0.5, 1, 2])
    found = gradients(model, X, Y, LOSS, training=training)

    def loss_behind(step):
        start = everything(model)
        for variable, gradient in zip(model.trainable_variables, found, strict=True):
            variable.assign_sub(step * gradient)
        loss = float(ops.convert_to_numpy(LOSS(Y, model(X, training=training))))
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        return loss

    slope = (loss_behind(0.01) - loss_behind(-0.01)) / 0.02
    assert slope == pytest.approx(-sum(float((g**2).sum()) for g in found), rel=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes_and_it_repeats(training):
    model = network()
    before = everything(model)
    first = gradients(model, X, Y, LOSS, training=training)
    second = gradients(model, X, Y, LOSS, training=training)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    for value, now in zip(before, everything(model), strict=True):
        np.testing.assert_array_equal(value, now)


def test_batch_normalisation_and_dropout_are_those_of_training_or_of_use():
    """In training mode the scale of the inputs does not matter behind batch normalisation."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.BatchNormalization(epsilon=1e-9),
            layers.Dense(1),
            layers.Dropout(0.5),
        ]
    )
    x, y = RNG.normal(size=(40, 3)), np.zeros((40, 1))
    one, other = (gradients(model, scale * x, y, "mse")[2] for scale in (1, 10))
    np.testing.assert_allclose(one, other, rtol=1e-3)
    used = [gradients(model, scale * x, y, "mse", training=False)[2] for scale in (1, 10)]
    assert np.abs(used[1]).max() > 10 * np.abs(used[0]).max()
    # The loss is the mean of squares of the outputs, of which training drops one half.
    assert not np.allclose(one, gradients(model, x, y, "mse", training=False)[2], rtol=0.1)


def test_losses_by_name_by_object_and_by_function_are_the_same():
    model = network()
    y = np.ones((20, 3), "float32")
    named, given, own = (
        gradients(model, X, y, loss, training=False)
        for loss in (
            "mse",
            keras.losses.MeanSquaredError(),
            lambda target, output: ops.mean(ops.square(target - output)),
        )
    )
    for one, other, third in zip(named, given, own, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(one, third, rtol=1e-5, atol=1e-8)


def test_embeddings_several_inputs_and_variables_without_influence():
    words, number = keras.Input((3,), dtype="int32"), keras.Input((1,))
    embedding = layers.Embedding(6, 1)
    summed = ops.sum(embedding(words), axis=1)
    unused = layers.Dense(1, name="unused")(number)
    model = keras.Model([words, number], [summed, unused])
    x = [np.array([[1, 1, 2]]), np.array([[5.0]])]
    found = gradients(model, x, np.zeros((1, 1)), lambda target, outputs: outputs[0][:, 0])
    for variable, gradient in zip(model.trainable_variables, found, strict=True):
        used = [0, 2, 1, 0, 0, 0] if variable is embedding.embeddings else [0]
        np.testing.assert_array_equal(gradient.ravel(), used)


class Subclassed(keras.Model):
    """A model whose `call` takes no `training`, in mixed precision."""

    def __init__(self):
        super().__init__(dtype="mixed_bfloat16")
        self.dense = layers.Dense(2, dtype="mixed_bfloat16")

    def call(self, inputs):
        return self.dense(inputs)


def test_subclassed_models_in_mixed_precision():
    model = Subclassed()
    model(np.ones((1, 3)))
    kernel, bias = gradients(model, np.ones((4, 3)), np.zeros((4, 2)), "mse")
    assert kernel.shape == (3, 2)
    assert kernel.dtype == bias.dtype == np.float32
    assert kernel.any()


@pytest.mark.parametrize(
    ("x", "y", "loss", "message"),
    [
        (X[:0], Y[:0], LOSS, "at least one"),
        (X, Y[:5], LOSS, "same number"),
        (X, np.float32(1), LOSS, "same number"),
        (X, Y, None, "Got None"),
        (X, Y, {"a": "mse", "b": "mse"}, "with several outputs"),
        (X, Y, "no_such_loss", "no_such_loss"),
    ],
)
def test_what_has_no_gradient_is_refused(x, y, loss, message):
    with pytest.raises(ValueError, match=message):
        gradients(network(), x, y, loss)


def test_models_without_weights_are_refused():
    for model in (
        keras.Sequential([layers.Dense(1)]),
        keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten()]),
    ):
        with pytest.raises(ValueError, match="not built or has no trainable"):
            gradients(model, X, Y, LOSS)
