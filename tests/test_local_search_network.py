"""Chains of layers in NumPy, against Keras, and the networks that are none."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import float64

from laperm_lib import batch_statistics
from laperm_lib.local_search import network
from laperm_lib.local_search.network import UnknownChainError, blocks_of

BACKEND = keras.backend.backend()


def forward(model, x):
    """The outputs of a model's blocks, one after the other."""
    blocks = blocks_of(model)
    parameters = {id(v): np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables}
    values = x.reshape(len(x), *blocks[0].input_shape)
    for block in blocks:
        z, values = block.forward(np.ascontiguousarray(values), parameters)
        assert z.shape[1:] == block.output_shape
    return values.reshape(len(x), -1)


def chain(*inner, shape=(9, 8, 2), dtype="float64"):
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.get(dtype)
    built = [layer(dtype=policy) for layer in inner]
    return keras.Sequential([keras.Input(shape, dtype=policy.compute_dtype), *built])


def layer(kind, *args, **kwargs):
    return lambda dtype: kind(*args, **kwargs, dtype=dtype)


CONV = layer(layers.Conv2D, 4, 3, padding="same", bias_initializer="normal")
FLAT = layer(layers.Flatten)
HEAD = (FLAT, layer(layers.Dense, 5, bias_initializer="normal"))
NORMAL = layer(layers.BatchNormalization)
MIDDLES = {
    "plain": (),
    "valid": (layer(layers.Conv2D, 3, (3, 2)),),
    "strides": (layer(layers.Conv2D, 3, (3, 2), strides=(2, 3)),),
    "same strides": (layer(layers.Conv2D, 3, (3, 4), strides=(2, 3), padding="same"),),
    "no bias": (layer(layers.Conv2D, 3, 3, use_bias=False),),
    "wide strides": (layer(layers.Conv2D, 3, 1, strides=2, padding="same"),),
    "max": (layer(layers.MaxPooling2D, 2),),
    "max, strides": (layer(layers.MaxPooling2D, (3, 2), strides=(1, 2)),),
    "max of one": (layer(layers.MaxPooling2D, 1, strides=2),),
    "average": (layer(layers.AveragePooling2D, (2, 3)),),
    "batch normalisation": (NORMAL,),
    "no scale": (layer(layers.BatchNormalization, scale=False, epsilon=0.1),),
    "no offset": (layer(layers.BatchNormalization, center=False),),
    "rectifier": (layer(layers.ReLU),),
    "leaky": (layer(layers.LeakyReLU, negative_slope=0.25),),
    "dropout": (layer(layers.Dropout, 0.5),),
    **{
        activation.__name__: (layer(layers.Activation, activation),)
        for activation in network.ACTIVATIONS
    },
    "dense": (FLAT, layer(layers.Dense, 6, "relu")),
    "dense, normalised": (
        *(FLAT, layer(layers.Dense, 6), NORMAL, layer(layers.ReLU), layer(layers.Dense, 7)),
    ),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_gives_what_keras_gives(name):
    with float64():
        model = chain(CONV, *MIDDLES[name], *HEAD)
        x = np.random.default_rng(1).normal(size=(6, 9, 8, 2))
        for variable in model.trainable_variables:  # gamma and beta of their own
            value = ops.convert_to_numpy(variable)
            variable.assign(value + 0.1 * np.random.default_rng(2).normal(size=value.shape))
        with batch_statistics.reestimated(model, [x]):
            expected = ops.convert_to_numpy(model(x, training=False))
        assert expected.dtype == "float64"
        # With JAX and torch, Keras 3.15 computes a part of a float64 network in float32; the slope
        # of `leaky_relu` is float32 on TensorFlow.
        is_exact = BACKEND == "tensorflow" and name != "leaky_relu"
        rtol, atol = (1e-9, 1e-12) if is_exact else (1e-4, 1e-6)
        np.testing.assert_allclose(forward(model, x), expected, rtol=rtol, atol=atol)


def test_vectors_and_functional_models():
    inputs = keras.Input((7,))
    hidden = layers.Dense(4, "relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(hidden)))
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(forward(model, x), expected, rtol=1e-4, atol=1e-6)


# -- other networks -------------------------------------------------------------------------------


INPUTS, DENSE = [keras.Input((4,)), keras.Input((4,))], layers.Dense(4)


def branching():
    return keras.Model(INPUTS[0], layers.Add()([layers.Dense(4)(INPUTS[0]), INPUTS[0]]))


def shared():
    return keras.Model(INPUTS[0], DENSE(DENSE(INPUTS[0])))


def parallel():
    return keras.Model(INPUTS, [layers.Dense(3)(each) for each in INPUTS])


class Own(layers.Dense):
    def call(self, x):
        return -super().call(x)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = Subclass()
    model(np.ones((2, 4)))
    return model


def simple(*inner, shape=(8, 8, 2), dtype="float32"):
    return lambda: chain(*inner, shape=shape, dtype=dtype)


UNKNOWN = {
    "branch": (branching, "form a chain"),
    "shared layer": (shared, "form a chain"),
    "two chains": (parallel, "form a chain"),
    "subclass": (subclassed, "form a chain"),
    "layer": (simple(layer(layers.DepthwiseConv2D, 3), *HEAD), r"'depthwise_conv2d.*not cached"),
    "layer of one's own": (simple(CONV, FLAT, layer(Own, 3)), r"\(Own\) is of a kind"),
    "first": (simple(NORMAL, CONV, *HEAD), "comes before the first"),
    "activation": (simple(layer(layers.Conv2D, 3, 3, activation="gelu"), *HEAD), "gelu"),
    "capped": (simple(CONV, layer(layers.ReLU, max_value=6), *HEAD), "max_value=6"),
    "dilation": (simple(layer(layers.Conv2D, 3, 3, dilation_rate=2), *HEAD), "dilation"),
    "groups": (simple(layer(layers.Conv2D, 2, 3, groups=2), *HEAD), "groups=2"),
    "unflattened": (simple(CONV, layer(layers.Dense, 3)), "does not follow Flatten"),
    "pooling": (
        simple(CONV, layer(layers.MaxPooling2D, 2, padding="same"), *HEAD),
        "max_pooling.*padding='same'",
    ),
    "flat": (simple(CONV, FLAT, NORMAL, HEAD[1]), "batch_normalization.*flattened"),
    **{
        f"{kind.__name__}, channels first": (
            simple(CONV, layer(kind, *sizes, data_format="channels_first"), *HEAD),
            rf"\({kind.__name__}\) has data_format='channels_first'",
        )
        for kind, *sizes in [
            (layers.Flatten,),
            (layers.MaxPooling2D, 2),
            (layers.AveragePooling2D, 2),
        ]
    },
    "axis": (simple(CONV, layer(layers.BatchNormalization, axis=1), *HEAD), "axis=1"),
    "sequence": (simple(FLAT, layer(layers.Dense, 2), shape=(4, 4)), "not vectors"),
    "mixed precision": (simple(CONV, *HEAD, dtype="mixed_bfloat16"), "computes in bfloat16"),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.filterwarnings("ignore:.*build:UserWarning")
def test_other_networks_are_named(name):
    build, words = UNKNOWN[name]
    with pytest.raises(UnknownChainError, match=words):
        blocks_of(build())
