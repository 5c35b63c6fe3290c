"""Effective gradient flow and its gradients: by hand, by differences, and their laws."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import layers, ops

from laperm_lib import sparsity
from laperm_lib.errors import UnknownLayerError
from laperm_lib.gradient_flow import GradientFlow, effective_gradient_flow, gradients, layer_flow

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


def numpy(variable):
    return np.array(ops.convert_to_numpy(variable))


def everything(model):
    return [numpy(v) for v in model.variables]


def test_batch_normalisation_and_dropout_are_those_of_training():
    """The scale of the inputs does not matter after batch normalisation, and dropout matters."""
    normalisation = layers.BatchNormalization(epsilon=1e-9)
    dropout = layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((3,)), normalisation, layers.Dense(1), dropout])
    x, y = RNG.normal(size=(40, 3)), np.zeros((40, 1))
    one, other = (gradients(model, scale * x, y, "mse")[2] for scale in (1, 10))
    np.testing.assert_allclose(one, other, rtol=1e-3)
    dropout.rate = 0
    assert not np.allclose(one, gradients(model, x, y, "mse")[2], rtol=0.1)


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


def test_subclassed_models_in_mixed_precision():
    class Subclassed(keras.Model):
        """A model whose `call` takes no `training`."""

        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.dense = layers.Dense(2, dtype="mixed_bfloat16")

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.ones((1, 3)))
    kernel, bias = gradients(model, np.ones((4, 3)), np.zeros((4, 2)), "mse")
    assert kernel.shape == (3, 2)
    assert kernel.dtype == bias.dtype == np.float32
    assert kernel.any()


# -- flow, by hand ---------------------------------------------------------------------------------


def test_two_layers_by_hand():
    """2-2-1, where the second hidden neuron is off; one weight of the first kernel is zero.

    x = (1, 2): hidden (3, -1), after the rectifier (3, 0); output 6 + 0.5, target 5.5. The
    derivative of the squared error at the output is 2. At the second kernel the gradient is
    2 (3, 0) = (6, 0); at the hidden neurons it is 2 (2, 1), of which the rectifier lets (4, 0)
    through; at the first kernel it is ((4, 0), (8, 0)), whose 4 is that of the pruned weight.
    """
    hidden = layers.Dense(2, activation="relu", use_bias=False, name="first")
    model = keras.Sequential([keras.Input((2,)), hidden, layers.Dense(1, name="second")])
    weights = [[0.0, 1.0], [1.5, -1.0]], [[2.0], [1.0]], [0.5]
    model.set_weights(list(map(np.array, weights)))
    data = np.array([[1.0, 2.0]]), np.array([[5.5]]), "mse"
    flow = effective_gradient_flow(model, *data)
    first, second = flow.layers
    assert (first.path, first.total, first.active) == ("first/kernel", 4, 3)
    assert (second.path, second.total, second.active) == ("second/kernel", 2, 2)
    assert (first.norm, first.effective) == pytest.approx((80**0.5, 8))
    assert second.norm == second.effective == pytest.approx(6)
    assert (flow.norm, flow.effective) == pytest.approx(((80**0.5 + 6) / 2, (8 + 6) / 2))
    manhattan = effective_gradient_flow(model, *data, p=1)
    assert (manhattan.norm, manhattan.effective) == pytest.approx(((12 + 6) / 2, (8 + 6) / 2))


# -- laws ------------------------------------------------------------------------------------------

GRADIENTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(max_dims=4, max_side=5),
    # Numbers whose squares leave float32 on both sides.
    elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
    | st.floats(-(2.0**-99), 2.0**-99, width=32, allow_subnormal=False),
)
ORDERS = st.floats(1, 40)


@st.composite
def masked(draw):
    gradient = draw(GRADIENTS)
    return gradient, draw(arrays.arrays(bool, gradient.shape))


@given(masked(), ORDERS)
def test_it_is_the_norm_of_gradient_times_mask(case, p):
    gradient, mask = case
    flow = layer_flow("", gradient, mask, p)
    product = (gradient * mask).astype(np.longdouble)  # enough range for the powers
    scale = np.abs(product).max(initial=0) or 1
    expected = float(scale * (np.abs(product / scale) ** p).sum() ** (1 / np.longdouble(p)))
    assert flow.effective == pytest.approx(expected, rel=1e-6)
    assert (flow.total, flow.active) == (mask.size, mask.sum())
    whole = layer_flow("", gradient, np.ones(gradient.shape, bool), p)
    assert whole.effective == whole.norm == flow.norm


def test_a_layer_without_active_weights_counts_in_the_mean_and_what_is_not_finite_shows():
    gradient = np.array([3.0, 4.0])
    flows = [layer_flow("", gradient, np.full(2, active), 2) for active in (True, False)]
    assert GradientFlow(tuple(flows)).effective == (5 + 0) / 2
    for value in (np.nan, np.inf, -np.inf):
        flow = layer_flow("", np.array([1.0, value]), np.array([True, False]), 2)
        assert not np.isfinite(flow.norm)
        assert flow.effective == 1


# -- with networks ---------------------------------------------------------------------------------


def test_zeros_are_the_pruned_weights_and_nothing_of_the_model_changes():
    model = network()
    before = everything(model)
    flow = effective_gradient_flow(model, X, Y, LOSS)
    assert flow.effective == flow.norm == np.mean([layer.norm for layer in flow.layers])
    assert flow == effective_gradient_flow(model, X, Y, LOSS)
    assert all(map(np.array_equal, before, everything(model)))
    report = sparsity.random_prune(model, 0.5, seed=0)
    flow = effective_gradient_flow(model, X, Y, LOSS)
    pruned = [(each.path, each.total, each.kept) for each in report.layers]
    assert [(each.path, each.total, each.active) for each in flow.layers] == pruned
    assert flow.effective < flow.norm


def masked_tagger():
    """Words, of which 0 is padding, to a class for each and one for all; L2 on both ends."""
    keras.utils.set_random_seed(0)
    words = keras.Input((6,), dtype="int32")
    l2 = keras.regularizers.L2(0.3)
    hidden = layers.GRU(5, return_sequences=True)(
        layers.Embedding(9, 4, mask_zero=True, embeddings_regularizer=l2)(words)
    )
    each = layers.Dense(3, activation="softmax", name="each")(hidden)
    whole = layers.Dense(1, name="whole", kernel_regularizer=l2)(
        layers.GlobalAveragePooling1D()(hidden)
    )
    return keras.Model(words, [each, whole])


WORDS = np.where(np.arange(6) < RNG.integers(1, 6, (16, 1)), RNG.integers(1, 9, (16, 6)), 0)
BOTH = [RNG.integers(0, 3, (16, 6)), RNG.normal(size=(16, 1)).astype("float32")]
TWO = {"each": "sparse_categorical_crossentropy", "whole": "mae"}


@pytest.mark.parametrize("loss", [TWO, list(TWO.values())], ids=type)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_measures_the_step_that_training_takes(loss, weighted):
    """Masks, weights of samples and of losses, several outputs: but for the derivative of L2."""
    model = masked_tagger()
    heads = {"each": 0.2, "whole": 3.0} if isinstance(loss, dict) else [0.2, 3.0]
    model.compile(keras.optimizers.SGD(1.0), loss=loss, loss_weights=heads)
    weights = [RNG.random(y.shape).astype("float32") for y in BOTH] if weighted else None
    before = [numpy(v) for v in model.trainable_variables]
    found = gradients(model, WORDS, BOTH, None, weights)
    assert all(map(np.array_equal, found, gradients(model, WORDS, BOTH, model.loss, weights)))
    model.train_on_batch(WORDS, BOTH, sample_weight=weights)
    for start, gradient, variable in zip(before, found, model.trainable_variables, strict=True):
        penalty = 0.6 * start if variable.regularizer is not None else 0
        np.testing.assert_allclose(start - numpy(variable) - penalty, gradient, atol=2e-5)


def test_a_function_of_all_outputs_adds_their_losses_up():
    model = masked_tagger()
    found = gradients(model, WORDS, BOTH, lambda y, out: ops.sum(out[1]) + 0 * ops.sum(y[1]))
    assert found[-1] == pytest.approx(len(WORDS))
    with pytest.raises(ValueError, match="Weigh the samples in the function"):
        gradients(model, WORDS, BOTH, lambda y, out: ops.sum(out[1]), np.ones(16))


class Own(keras.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=shape[1:])

    def call(self, inputs):
        return inputs * self.w


def test_what_has_no_gradient_flow_is_refused():
    for x, y, loss, message in [
        (X[:0], Y[:0], LOSS, "at least one"),
        (X, Y[:5], LOSS, "same number"),
        (X, np.float32(1), LOSS, "same number"),
        (X, Y, None, "Got None"),
        (X, Y, {"a": "mse", "b": "mse"}, "does not fit the outputs"),
        (X, Y, "no_such_loss", "no_such_loss"),
    ]:
        with pytest.raises(ValueError, match=message):
            effective_gradient_flow(network(), x, y, loss)
    for layer, error, message in [
        (layers.BatchNormalization(), ValueError, "no kernel"),
        (Own(), UnknownLayerError, "register"),
    ]:
        with pytest.raises(error, match=message):
            effective_gradient_flow(keras.Sequential([keras.Input((2,)), layer]), X, Y, LOSS)
    with pytest.raises(ValueError, match="not built"):
        effective_gradient_flow(keras.Sequential([layers.Dense(1)]), X, Y, LOSS)
    with pytest.raises(ValueError, match="p is a number at least 1"):
        effective_gradient_flow(network(), X, Y, LOSS, p=0.5)
    frozen = keras.Sequential([keras.Input((2,)), layers.Dense(1, trainable=False)])
    with pytest.raises(ValueError, match="no trainable"):
        gradients(frozen, X, Y, LOSS)
