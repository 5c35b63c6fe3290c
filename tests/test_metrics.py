"""Effective gradient flow: by hand, and its laws."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import layers

from laperm_lib import sparsity, weight_vectors
from laperm_lib.errors import UnknownLayerError
from laperm_lib.metrics import GradientFlow, effective_gradient_flow, layer_flow


def two_layers():
    """2-2-1, where the second hidden neuron is off; one weight of the first kernel is zero."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, activation="relu", use_bias=False, name="first"),
            layers.Dense(1, name="second"),
        ]
    )
    model.set_weights(
        [np.array([[0.0, 1.0], [1.5, -1.0]]), np.array([[2.0], [1.0]]), np.array([0.5])]
    )
    return model


ONE_X, ONE_Y = np.array([[1.0, 2.0]]), np.array([[5.5]])


def test_two_layers_by_hand():
    """x = (1, 2): hidden (3, -1), behind the rectifier (3, 0); output 6 + 0.5, target 5.5.

    The derivative of the squared error at the output is 2. At the second kernel the gradient is
    2 (3, 0) = (6, 0); at the hidden neurons it is 2 (2, 1), of which the rectifier lets (4, 0)
    through; at the first kernel it is ((4, 0), (8, 0)), whose 4 is that of the pruned weight.
    """
    flow = effective_gradient_flow(two_layers(), ONE_X, ONE_Y, "mse")
    first, second = flow.layers
    assert (first.path, first.total, first.active) == ("first/kernel", 4, 3)
    assert (second.path, second.total, second.active) == ("second/kernel", 2, 2)
    assert first.norm == pytest.approx(80**0.5)
    assert first.effective == pytest.approx(8)
    assert second.norm == second.effective == pytest.approx(6)
    assert flow.effective == pytest.approx((8 + 6) / 2)
    assert flow.norm == pytest.approx((80**0.5 + 6) / 2)

    manhattan = effective_gradient_flow(two_layers(), ONE_X, ONE_Y, "mse", p=1)
    assert manhattan.norm == pytest.approx((12 + 6) / 2)
    assert manhattan.effective == pytest.approx((8 + 6) / 2)


def test_given_masks_take_the_place_of_zeros():
    masks = [[[1, 0], [0, 0]], np.array([[False], [True]])]
    flow = effective_gradient_flow(two_layers(), ONE_X, ONE_Y, "mse", masks=masks)
    assert [layer.effective for layer in flow.layers] == pytest.approx([4, 0])
    assert [layer.active for layer in flow.layers] == [1, 1]


# -- laws --------------------------------------------------------------------------------------

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


@given(GRADIENTS, ORDERS)
def test_without_pruned_weights_it_is_the_plain_norm(gradient, p):
    flow = layer_flow("", gradient, np.ones(gradient.shape, bool), p)
    assert flow.effective == flow.norm
    assert layer_flow("", gradient, np.zeros(gradient.shape, bool), p).effective == 0


@given(masked(), ORDERS, st.floats(0.1, 10))
def test_it_scales_with_the_loss(case, p, factor):
    gradient, mask = case
    once, scaled = (layer_flow("", g, mask, p) for g in (gradient, factor * gradient))
    assert scaled.effective == pytest.approx(factor * once.effective, rel=1e-5)
    assert scaled.norm == pytest.approx(factor * once.norm, rel=1e-5)


@given(masked(), ORDERS, ORDERS)
def test_a_higher_order_gives_no_larger_norm_and_pruning_none_either(case, p, q):
    gradient, mask = case
    low, high = (layer_flow("", gradient, mask, order) for order in sorted((p, q)))
    assert high.effective <= low.effective * (1 + 1e-9)
    # Between two orders lies at most n^(1/p - 1/q), which all weights of one size reach.
    factor = max(1, mask.sum()) ** abs(1 / p - 1 / q)
    assert low.effective <= high.effective * factor * (1 + 1e-9)
    assert low.effective <= low.norm * (1 + 1e-9)
    assert high.norm == 0 or high.norm >= np.abs(gradient).max() * (1 - 1e-9)


@given(masked(), st.integers(1, 5))
def test_active_and_pruned_weights_make_up_the_whole(case, p):
    gradient, mask = case
    active, pruned = (layer_flow("", gradient, m, p) for m in (mask, ~mask))
    parts = np.array([active.effective, pruned.effective])
    scale = parts.max() or 1
    assert active.norm == pytest.approx(scale * ((parts / scale) ** p).sum() ** (1 / p), rel=1e-6)


@given(st.lists(masked(), min_size=1, max_size=4))
def test_a_layer_without_active_weights_counts_in_the_mean(cases):
    layers_of = [layer_flow("", gradient, mask, 2) for gradient, mask in cases]
    gradient = cases[0][0]
    nothing = layer_flow("", gradient, np.zeros(gradient.shape, bool), 2)
    before = GradientFlow(tuple(layers_of))
    after = GradientFlow((*layers_of, nothing))
    count = len(cases)
    assert after.effective == pytest.approx(before.effective * count / (count + 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(value):
    flow = layer_flow("", np.array([1.0, value]), np.array([True, False]), 2)
    assert not np.isfinite(flow.norm)
    assert flow.effective == 1


# -- with networks -----------------------------------------------------------------------------

RNG = np.random.default_rng(1)
X = RNG.normal(size=(30, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, 3, size=30)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="swish"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def test_a_network_that_is_not_pruned_has_the_plain_mean_norm():
    flow = effective_gradient_flow(network(), X, Y, LOSS)
    assert flow.effective == flow.norm == np.mean([layer.norm for layer in flow.layers])
    assert all(layer.active == layer.total for layer in flow.layers)


def test_a_loss_twice_as_large_flows_twice_as_strong():
    model = network()
    sparsity.random_prune(model, 0.5, seed=0)
    once = effective_gradient_flow(model, X, Y, LOSS, p=3)
    twice = effective_gradient_flow(model, X, Y, lambda y, out: 2 * LOSS(y, out), p=3)
    assert twice.effective == pytest.approx(2 * once.effective, rel=1e-5)
    assert once.effective < once.norm


def test_zeros_are_the_pruned_weights():
    model = network()
    report = sparsity.random_prune(model, 0.5, seed=0)
    flow = effective_gradient_flow(model, X, Y, LOSS)
    assert [(e.path, e.total, e.active) for e in flow.layers] == [
        (e.path, e.total, e.kept) for e in report.layers
    ]
    masks = [keras.ops.convert_to_numpy(v.variable) != 0 for v in weight_vectors.of(model)]
    assert effective_gradient_flow(model, X, Y, LOSS, masks=masks) == flow


def test_inference_mode_sees_the_moving_averages():
    model = network()
    model.layers[1].moving_variance.assign([100.0] * 4)
    in_use = effective_gradient_flow(model, X, Y, LOSS, training=False)
    in_training = effective_gradient_flow(model, X, Y, LOSS)
    assert in_training.effective > 2 * in_use.effective


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"p": 0.5}, "p is a number at least 1"),
        ({"masks": [np.ones((3, 3, 1, 4))]}, "1 masks for 2 kernels"),
        ({"masks": [np.ones((3, 3, 4, 1)), np.ones((64, 3))]}, "shape"),
        ({"masks": [np.ones((3, 3, 1, 4)), np.full((64, 3), 0.5)]}, "something else than 0 and 1"),
    ],
)
def test_bad_arguments_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        effective_gradient_flow(network(), X, Y, LOSS, **how)


def test_models_without_known_kernels():
    with pytest.raises(ValueError, match="no kernel"):
        effective_gradient_flow(
            keras.Sequential([keras.Input((2,)), layers.BatchNormalization()]), X, Y, LOSS
        )

    class Own(keras.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=shape[1:])

        def call(self, inputs):
            return inputs * self.w

    with pytest.raises(UnknownLayerError):
        effective_gradient_flow(keras.Sequential([keras.Input((2,)), Own()]), X, Y, LOSS)
