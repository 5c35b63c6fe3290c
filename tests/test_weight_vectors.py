"""Every Keras layer with weights splits into weight vectors as its neurons do."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import layers

from laperm_lib import weight_vectors
from laperm_lib.errors import UnknownLayerError
from laperm_lib.weight_vectors import Axes

ALL = ("kernel", "bias", "normalization")

# fmt: off
# layer, shape of its input(s), {variable: (neurons, length of a weight vector)}
CASES = [
    (layers.Dense(3), (2, 4), {"kernel": (3, 4), "bias": (1, 3)}),
    (layers.Conv1D(3, 2), (2, 8, 4), {"kernel": (3, 8), "bias": (1, 3)}),
    (layers.Conv2D(3, 2), (2, 8, 8, 4), {"kernel": (3, 16), "bias": (1, 3)}),
    (layers.Conv2D(4, 2, groups=2), (2, 8, 8, 4), {"kernel": (4, 8), "bias": (1, 4)}),
    (layers.Conv3D(3, 2), (2, 4, 4, 4, 5), {"kernel": (3, 40), "bias": (1, 3)}),
    (layers.Conv1DTranspose(3, 2), (2, 8, 4), {"kernel": (3, 8), "bias": (1, 3)}),
    (layers.Conv2DTranspose(3, 2), (2, 8, 8, 4), {"kernel": (3, 16), "bias": (1, 3)}),
    (layers.Conv3DTranspose(3, 2), (2, 4, 4, 4, 5), {"kernel": (3, 40), "bias": (1, 3)}),
    (layers.DepthwiseConv1D(2), (2, 8, 4), {"kernel": (4, 2), "bias": (1, 4)}),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 8, 8, 4),
     {"kernel": (8, 9), "bias": (1, 8)}),
    (layers.SeparableConv1D(3, 2), (2, 8, 4),
     {"depthwise_kernel": (4, 2), "pointwise_kernel": (3, 4), "bias": (1, 3)}),
    (layers.SeparableConv2D(3, 2), (2, 8, 8, 4),
     {"depthwise_kernel": (4, 4), "pointwise_kernel": (3, 4), "bias": (1, 3)}),
    (layers.Embedding(7, 5), (2, 3), {"embeddings": (5, 7)}),
    (layers.ReversibleEmbedding(7, 5, tie_weights=False), (2, 3),
     {"embeddings": (5, 7), "reverse_embeddings": (7, 5)}),
    (layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), (2, 6, 4),
     {"kernel": (3, 4), "bias": (1, 3)}),
    (layers.EinsumDense("abc,bcd->abd", (6, 3)), (2, 6, 4), {"kernel": (18, 4)}),
    (layers.EinsumDense("...x,xyz->...yz", (3, 2)), (2, 6, 4), {"kernel": (6, 4)}),
    (layers.SimpleRNN(3), (2, 5, 4),
     {"kernel": (3, 4), "recurrent_kernel": (3, 3), "bias": (1, 3)}),
    (layers.LSTM(3), (2, 5, 4),
     {"kernel": (12, 4), "recurrent_kernel": (12, 3), "bias": (1, 12)}),
    (layers.GRU(3), (2, 5, 4), {"kernel": (9, 4), "recurrent_kernel": (9, 3), "bias": (2, 9)}),
    (layers.GRU(3, reset_after=False), (2, 5, 4),
     {"kernel": (9, 4), "recurrent_kernel": (9, 3), "bias": (1, 9)}),
    (layers.ConvLSTM1D(3, 2), (2, 5, 8, 4),
     {"kernel": (12, 8), "recurrent_kernel": (12, 6), "bias": (1, 12)}),
    (layers.AdditiveAttention(), [(2, 5, 4), (2, 5, 4)], {"scale": (1, 4)}),  # one neuron scores
    (layers.PReLU(), (2, 4), {"alpha": (1, 4)}),
    (layers.BatchNormalization(), (2, 4), {"gamma": (1, 4), "beta": (1, 4)}),
    (layers.LayerNormalization(), (2, 4), {"gamma": (1, 4), "beta": (1, 4)}),
    (layers.GroupNormalization(2), (2, 4), {"gamma": (1, 4), "beta": (1, 4)}),
    (layers.RMSNormalization(), (2, 4), {"scale": (1, 4)}),
]
# fmt: on


@pytest.mark.parametrize(
    ("layer", "shape", "expected"), CASES, ids=lambda x: getattr(x, "name", None)
)
def test_neurons_and_lengths(layer, shape, expected):
    if not layer.built:
        layer.build(shape)
    assert {v.variable.name: v.matrix().shape for v in weight_vectors.of(layer, ALL)} == expected


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(3), (2, 4)),
        (layers.Conv1D(3, 2), (2, 8, 4)),
        (layers.Conv2D(4, 2, groups=2), (2, 8, 8, 4)),
        (layers.Conv2DTranspose(3, 2), (2, 8, 8, 4)),
        (layers.EinsumDense("abc,cd->abd", (None, 3)), (2, 6, 4)),
    ],
)
def test_a_neurons_output_depends_on_its_weight_vector_alone(layer, shape):
    """Changing one row of the matrix changes one output channel: rows are neurons indeed."""
    layer.build(shape)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    kernel = weight_vectors.of(layer)[0]
    before = keras.ops.convert_to_numpy(layer(x))
    values = keras.ops.convert_to_numpy(kernel.variable).copy()
    np.moveaxis(values, kernel.neuron_axes[0], 0)[1] += 1
    kernel.variable.assign(values)
    changed = np.abs(keras.ops.convert_to_numpy(layer(x)) - before) > 0
    assert changed[..., 1].any()
    assert not np.delete(changed, 1, axis=-1).any()


def test_every_keras_layer_that_makes_weights_is_known():
    """A new Keras layer with weights must be added to the table, not found by a user."""
    missing = set()
    for name, layer_class in inspect.getmembers(layers, inspect.isclass):
        ancestors = [c for c in layer_class.__mro__ if c.__module__.startswith("keras.src.layers")]
        makes_weights = any(
            "self.add_weight(" in inspect.getsource(ancestor)
            for ancestor in ancestors
            if issubclass(ancestor, keras.Layer) and ancestor is not keras.Layer
        )
        # A recurrent layer's weights are its cell's, and the cells are public classes too.
        known = issubclass(layer_class, layers.RNN) or weight_vectors._RULES.keys() & {*ancestors}
        if makes_weights and not known:
            missing.add(name)
    # The weights of these two are never trained: statistics of the data, and of the kernel.
    assert missing <= {"Normalization", "SpectralNormalization"}


def test_layers_made_of_layers():
    query = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4)
    bidirectional = layers.Bidirectional(layers.LSTM(3))
    output = bidirectional(attention(query, query))
    model = keras.Model(query, layers.TimeDistributed(layers.Dense(2))(output[:, None]))
    shapes = {v.path: v.matrix().shape for v in weight_vectors.of(model)}
    assert shapes["query/kernel"] == (8, 8)  # 2 heads of 4 neurons that see 8 inputs each
    assert shapes["attention_output/kernel"] == (8, 8)
    assert len(shapes) == 4 + 2 + 1  # the two directions' cells share their names


class Scale(keras.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1], 2), name="factor")


def test_registered_rules_hold_for_subclasses_by_mapping_and_by_function():
    class Mine(Scale):
        pass

    class MyDense(layers.Dense):
        pass

    layer, dense = Mine(), MyDense(3)
    layer.build((None, 3))
    dense.build((None, 4))
    assert weight_vectors.of(dense)[0].matrix().shape == (3, 4)
    weight_vectors.register(Mine, {"factor": Axes((-1,))})
    assert weight_vectors.of(layer)[0].matrix().shape == (2, 3)
    weight_vectors.register(Mine, lambda layer: {"factor": Axes((0,), "bias")})
    assert weight_vectors.of(layer, ["bias"])[0].matrix().shape == (3, 2)


def test_what_cannot_be_registered_or_has_no_weight_vectors():
    for arguments in [(int, {}), (Scale(), {}), (Scale, {"factor": (0,)}), (Scale, 3)]:
        with pytest.raises(ValueError, match=r"keras.Layer|Axes|rule"):
            weight_vectors.register(*arguments)
    with pytest.raises(ValueError, match="not built"):
        weight_vectors.of(layers.Dense(3))
    with pytest.raises(ValueError, match="Expected a Keras model"):
        weight_vectors.of(np.zeros(3))


def test_a_variable_without_a_layer_is_an_error():
    for variable, why in [
        (keras.Variable(np.zeros(3, "float32")), "No live Keras layer"),
        (np.zeros(1000), r"of ndarray, .*model\.trainable_variables"),  # not printed
    ]:
        with pytest.raises(UnknownLayerError, match=why):
            weight_vectors.of_variables([variable], weight_vectors.alive(keras.Layer))


def test_tied_weights_belong_to_the_layer_that_made_them():
    dense, borrower = layers.Dense(3, name="d"), keras.Layer()
    dense.build((None, 4))
    borrower.kernel = dense.kernel
    assert borrower._trainable_variables == [dense.kernel]
    for candidates in ([dense, borrower], [borrower, dense]):
        found = weight_vectors.of_variables([dense.bias, dense.kernel], candidates)
        assert [each.path for each in found] == ["d/bias", "d/kernel"]
        assert all(each.layer is dense for each in found)
    with pytest.raises(UnknownLayerError, match="layer class Layer"):  # the best there is
        weight_vectors.of_variables([dense.kernel], [borrower])


class Borrowing(layers.Layer):
    """Knows the kernel of a layer inside of it by a name of its own, as SpectralNormalization."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)
        self.kernel = self.inner.kernel

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_variable_belongs_to_the_innermost_of_the_layers_that_know_it(inner_first):
    outer = Borrowing(layers.Dense(3, name="dense"), name="outer")
    model = keras.Sequential([keras.Input((4,)), outer])
    candidates = [outer.inner, outer, model] if inner_first else [model, outer, outer.inner]
    owners = weight_vectors._owners(candidates)
    assert {owners[id(v)].name for v in model.trainable_variables} == {"dense"}
    (vectors,) = weight_vectors.of(model)
    assert vectors.path == "dense/kernel"


def test_kernels_by_their_number(caplog):
    """What pruning and gradient flow work on: `exclude` leaves the numbers of the others."""
    names = ("first", "second", "third")
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=name) for name in names)])

    def paths(**how):
        return {n: v.path for n, v in weight_vectors.kernels(model, **how).items()}

    every = {number: f"{name}/kernel" for number, name in enumerate(names)}
    assert paths() == every
    assert paths(exclude="second") == {0: "first/kernel", 2: "third/kernel"}
    model.layers[0].trainable = False
    assert paths() == {0: "second/kernel", 1: "third/kernel"}
    assert paths(frozen=True) == every
    assert caplog.text == ""
    paths(exclude=["bias", "fourth"])
    assert "'fourth' is in no path of 'sequential" in caplog.text
    with pytest.raises(ValueError, match="has no kernel"):
        paths(exclude="kernel")


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (4, 4, 4)])
def test_matrices_of_unknown_layers_are_left_out_and_logged(shape, caplog):
    own = type("Own", (Gate,), {"form": shape, "variable": "gate", "call": lambda self, x: x})()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="known"), own])
    assert [v.path for v in weight_vectors.kernels(model).values()] == ["known/kernel"]
    assert ("Left out: The weight vectors of" in caplog.text) == (len(shape) > 1)
    caplog.clear()
    weight_vectors.kernels(model, "gate")
    assert caplog.text == ""
    with pytest.raises(UnknownLayerError):
        weight_vectors.kernels(own)
    with pytest.raises(ValueError, match="has no kernel"):
        weight_vectors.kernels(own, "gate")


def test_axes_are_a_tuple_of_ints_and_of_a_known_kind():
    for neurons in (-1, [-1], (-1.0,), ("0",), (True,), None):
        with pytest.raises(ValueError, match="tuple of ints, got"):
            Axes(neurons)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert len(weight_vectors.of(model, "bias")) == 1
    for kind in ("biases", "", None, ["bias"]):
        for make in (lambda kind: Axes((), kind), lambda kind: weight_vectors.of(model, (kind,))):
            with pytest.raises(ValueError, match=r"Unknown kind .*; there are kernel, bias"):
                make(kind)


class Gate(keras.layers.Layer):
    """Weights of several shapes, one of them without a name of its own."""

    def build(self, shape):
        self.weight = self.add_weight(shape=self.form, name=self.variable)


@pytest.mark.parametrize(
    ("form", "variable", "example"),
    [
        ((3, 4), "gate", "Axes(neurons=(-1,))})"),
        ((4,), "gate", "Axes((), 'bias')})"),
        ((), "gate", "Axes((), 'bias')})"),
        ((3, 4), None, "once add_weight has given it a name of its own})"),
    ],
)
def test_the_axes_proposed_for_an_unknown_layer_fit_its_variable(form, variable, example):
    layer = type("Own", (Gate,), {"form": form, "variable": variable})()
    layer.build((None, 3))
    message = rf"weight_vectors\.register\(Own, .*{re.escape(example)}"
    with pytest.raises(UnknownLayerError, match=message):
        weight_vectors.of(layer)
