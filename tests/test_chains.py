"""Chains of layers in NumPy, against Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import float64

from laperm_lib import batch_statistics
from laperm_lib.local_search.chains import blocks_of

BACKEND = keras.backend.backend()


def forward(model, x):
    """What the blocks of a model give."""
    blocks = blocks_of(model)
    parameters = {id(v): np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables}
    values = x.reshape(len(x), *blocks[0].input_shape)
    for block in blocks:
        z = block.start(len(values), parameters)
        block.add_linear(np.ascontiguousarray(values), block.kernel(parameters), z)
        assert z.shape[1:] == block.output_shape
        values = block.apply_steps(z, parameters)
    return values.reshape(len(x), -1)


def chain(*inner, shape=(9, 8, 2), dtype="float64"):
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.get(dtype)
    built = [layer(dtype=policy) for layer in inner]
    return keras.Sequential([keras.Input(shape, dtype=policy.compute_dtype), *built])


def layer(kind, *args, **kwargs):
    return lambda dtype: kind(*args, **kwargs, dtype=dtype)


CONV = layer(layers.Conv2D, 4, 3, padding="same", bias_initializer="normal")
HEAD = (layer(layers.Flatten), layer(layers.Dense, 5, bias_initializer="normal"))
MIDDLES = {
    "plain": (),
    "valid": (layer(layers.Conv2D, 3, (3, 2)),),
    "strides": (layer(layers.Conv2D, 3, (3, 2), strides=(2, 3)),),
    "same strides": (layer(layers.Conv2D, 3, (3, 4), strides=(2, 3), padding="same"),),
    "no bias": (layer(layers.Conv2D, 3, 3, use_bias=False),),
    "wide strides": (layer(layers.Conv2D, 3, 1, strides=2, padding="same"),),
    "max": (layer(layers.MaxPooling2D, 2),),
    "max, strides": (layer(layers.MaxPooling2D, (3, 2), strides=(1, 2)),),
    "average": (layer(layers.AveragePooling2D, (2, 3)),),
    "batch normalisation": (layer(layers.BatchNormalization),),
    "no scale": (layer(layers.BatchNormalization, scale=False, epsilon=0.1),),
    "no offset": (layer(layers.BatchNormalization, center=False),),
    "relu": (layer(layers.ReLU),),
    "capped": (layer(layers.ReLU, max_value=0.5, negative_slope=0.125),),
    "leaky": (layer(layers.LeakyReLU, negative_slope=0.25),),
    "dropout": (layer(layers.Dropout, 0.5), layer(layers.SpatialDropout2D, 0.5)),
    "activation": (layer(layers.Activation, "tanh"),),
    "global max": (layer(layers.GlobalMaxPooling2D),),
    "global average": (layer(layers.GlobalAveragePooling2D), layer(layers.Dense, 6, "relu")),
    "dense": (layer(layers.Flatten), layer(layers.Dense, 6, "relu")),
    "dense, normalised": (
        *(layer(layers.Flatten), layer(layers.Dense, 6), layer(layers.BatchNormalization)),
        *(layer(layers.ReLU), layer(layers.Dense, 7)),
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
        # With JAX and torch, Keras 3.15 computes a part of a float64 network in float32.
        rtol, atol = (1e-9, 1e-12) if BACKEND == "tensorflow" else (1e-4, 1e-6)
        np.testing.assert_allclose(forward(model, x), expected, rtol=rtol, atol=atol)


def test_vectors_and_functional_models():
    inputs = keras.Input((7,))
    hidden = layers.Dense(4, "relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(hidden)))
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(forward(model, x), expected, rtol=1e-4, atol=1e-6)


def test_a_vector_has_no_channels_that_could_come_first():
    model = chain(
        layer(layers.Flatten, data_format="channels_first"), HEAD[1], shape=(7,), dtype="float32"
    )
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    np.testing.assert_allclose(forward(model, x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6)


def branching():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([hidden, inputs])))


def shared():
    inputs, dense = keras.Input((4,)), layers.Dense(4)
    return keras.Model(inputs, dense(dense(inputs)))


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


def simple(*inner, shape=(8, 8, 2)):
    return lambda: chain(*inner, shape=shape, dtype="float32")


UNKNOWN = {
    "branch": (branching, "no chain"),
    "shared layer": (shared, "no chain"),
    "subclass": (subclassed, "no chain"),
    "layer": (simple(layer(layers.DepthwiseConv2D, 3), *HEAD), "depthwise_conv2d"),
    "first": (simple(layer(layers.BatchNormalization), CONV, *HEAD), "comes before the first"),
    "activation": (simple(layer(layers.Conv2D, 3, 3, activation="gelu"), *HEAD), "gelu"),
    "dilation": (simple(layer(layers.Conv2D, 3, 3, dilation_rate=2), *HEAD), "dilation"),
    "groups": (simple(layer(layers.Conv2D, 2, 3, groups=2), *HEAD), "groups"),
    "unflattened": (simple(CONV, layer(layers.Dense, 3)), "not behind Flatten"),
    "pooling": (simple(CONV, layer(layers.MaxPooling2D, 2, padding="same"), *HEAD), "max_pooling"),
    "flat": (
        simple(CONV, layer(layers.Flatten), layer(layers.BatchNormalization), HEAD[1]),
        "batch_normalization",
    ),
    **{
        f"{kind.__name__}, channels first": (
            simple(CONV, layer(kind, *sizes, data_format="channels_first"), *HEAD),
            rf"\({kind.__name__}\) has its channels first",
        )
        for kind, *sizes in [
            (layers.Flatten,),
            (layers.MaxPooling2D, 2),
            (layers.AveragePooling2D, 2),
            (layers.GlobalMaxPooling2D,),
            (layers.GlobalAveragePooling2D,),
        ]
    },
    "axis": (simple(CONV, layer(layers.BatchNormalization, axis=1), *HEAD), "another axis"),
    "nothing": (simple(layer(layers.Flatten)), "no Dense or Conv2D"),
    "sequence": (simple(layer(layers.Flatten), layer(layers.Dense, 2), shape=(4, 4)), "no vectors"),
    "not built": (lambda: keras.Sequential([layers.Dense(3)]), "not a built"),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.filterwarnings("ignore:.*build:UserWarning")
def test_other_models_are_refused(name):
    build, words = UNKNOWN[name]
    with pytest.raises(ValueError, match=words):
        blocks_of(build())


def test_mixed_precision_is_refused():
    model = chain(CONV, *HEAD, dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match="computes in bfloat16"):
        blocks_of(model)
