"""The fused batch normalisation and Adam, beside Keras's own."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from laperm_lib import LaPerm
from laperm_lib.paper.fused import Adam, BatchNormalization

BOTH = (BatchNormalization, layers.BatchNormalization)
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_TORCH = keras.backend.backend() == "torch"  # Keras's use of its compiler warns


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(30, 20, shape).astype("float32")


def made(layer_class, shape, **kwargs):
    """A layer whose weights are neither zeros nor ones."""
    layer = layer_class(**kwargs)
    layer.build(shape)
    for number, variable in enumerate(layer.variables):
        variable.assign(np.random.default_rng(number).uniform(0.5, 2, variable.shape))
    return layer


def trained(layer_class, x, compiled=False, **kwargs):
    """Outputs, and the weights after two steps of plain gradient descent."""
    layer = made(layer_class, x.shape, **kwargs)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    outputs = ops.convert_to_numpy(ops.cast(model(x, training=True), "float32"))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=compiled)
    targets = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    model.fit(x, targets, batch_size=len(x), epochs=2, verbose=0)
    return [outputs, *map(ops.convert_to_numpy, layer.variables)]


def assert_close(results, tolerance):
    for ours, keras_own in zip(*results, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=tolerance, atol=tolerance)


@given(
    n=st.integers(1, 5), side=st.integers(1, 4), channels=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_normalises_a_batch_and_keeps_its_moments_as_keras_does(n, side, channels, seed):
    x = images(n, side, side + 1, channels, seed=seed)
    both = [made(layer_class, x.shape) for layer_class in BOTH]
    outputs = [layer(x, training=True) for layer in both]
    found = [(out, *layer.variables) for out, layer in zip(outputs, both, strict=True)]
    assert_close([map(ops.convert_to_numpy, each) for each in found], 1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 1e-2), ("mixed_float16", 2e-3)]
)
@pytest.mark.parametrize("compiled", [False] if ON_TORCH else [False, True])
def test_trains_as_keras_does(dtype, tolerance, compiled):
    x = images(6, 5, 4, 3)
    assert_close([trained(kind, x, compiled, dtype=dtype) for kind in BOTH], tolerance)


def test_gives_the_gradient_of_images_as_keras_does():
    x, target = images(4, 3, 3, 2), images(4, 3, 3, 2, seed=1)
    gradients = []
    for kind in BOTH:
        first = layers.Conv2D(2, 1, kernel_initializer="ones")
        model = keras.Sequential([keras.Input(x.shape[1:]), first, made(kind, x.shape)])
        before = ops.convert_to_numpy(first.kernel)
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
        model.fit(x, target, batch_size=4, verbose=0)
        gradients.append(ops.convert_to_numpy(first.kernel) - before)
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-6)
    assert np.abs(gradients[0]).max() > 1e-5


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        *(((6, 7), {}), ((6, 5, 7), {}), ((4, 3, 3, 2), {"axis": 1})),
        *(((4, 3, 3, 2), {name: False}) for name in ("scale", "center")),
        ((4, 3, 3, 2), {"renorm": True}),
        *[((4, 3, 3, 2), {"dtype": "float64"})] * (keras.backend.backend() != "jax"),
    ],
)
def test_what_does_not_fit_is_keras_own_computation(shape, kwargs, monkeypatch):
    monkeypatch.setattr(BatchNormalization, "_fused", None)
    assert_close([trained(kind, images(*shape), **kwargs) for kind in BOTH], 1e-5)


@pytest.mark.parametrize(
    ("trainable", "training", "mask"),
    [(True, False, None), (False, True, None), (True, True, np.arange(18).reshape(2, 3, 3) < 9)],
)
def test_inference_and_masks_are_keras_own_computation(trainable, training, mask):
    x = images(2, 3, 3, 2)
    both = (made(kind, x.shape, trainable=trainable) for kind in BOTH)
    found = (ops.convert_to_numpy(each(x, training=training, mask=mask)) for each in both)
    np.testing.assert_array_equal(*found)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the fused operation is TensorFlow's")
def test_images_are_normalised_by_the_fused_operation():
    import tensorflow as tf

    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))
    step = tf.function(lambda x: layer(x, training=True))
    graph = step.get_concrete_function(tf.TensorSpec((None, 4, 4, 3))).graph
    assert [op.type for op in graph.get_operations() if "Norm" in op.type] == ["FusedBatchNormV3"]


def test_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 2)), BatchNormalization(momentum=0.5)])
    model.save(tmp_path / "model.keras")
    layer = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert (type(layer), layer.momentum) == (BatchNormalization, 0.5)


# -- Adam ------------------------------------------------------------------------------------------


def stepped(kind, dtype="float32", **how):
    """The weights after five steps along given gradients."""
    rng, shapes = np.random.default_rng(0), [(), (3,), (4, 5)]
    variables = [keras.Variable(rng.normal(size=shape).astype(dtype)) for shape in shapes]
    optimizer = kind(**how)
    for _ in range(5):
        gradients = [ops.convert_to_tensor(rng.normal(size=s).astype(dtype)) for s in shapes]
        optimizer.apply(gradients, variables)
    return list(map(ops.convert_to_numpy, [*variables, *optimizer.variables]))


@pytest.mark.parametrize(
    "how",
    [
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1},
        {"clipnorm": 0.1, "weight_decay": 0.1},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)},
        {"use_ema": True, "gradient_accumulation_steps": 2},
        {"amsgrad": True},
        *[{"dtype": "float64"}] * (keras.backend.backend() != "jax"),
    ],
    ids=lambda how: next(iter(how)),
)
def test_adam_steps_as_keras_does(how):
    assert_close([stepped(kind, **how) for kind in (Adam, keras.optimizers.Adam)], 2e-6)


def test_adam_trains_embeddings_and_inside_of_laperm_as_keras_does():
    """The gradient of an embedding is sparse."""
    found = []
    for kind in (Adam, keras.optimizers.Adam):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,)), layers.Embedding(7, 2), layers.Flatten(), layers.Dense(1)]
        )
        model.compile(LaPerm(kind(0.1), 3), "mse", jit_compile=False)
        x = np.arange(24).reshape(8, 3) % 7
        model.fit(x, x[:, 0].astype("float32"), batch_size=2, epochs=3, verbose=0)
        found.append(model.get_weights())
    assert_close(found, 1e-5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="the fused operation is TensorFlow's")
def test_adam_is_one_operation_for_each_variable():
    import tensorflow as tf

    variables = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    optimizer = Adam()
    optimizer.build(variables)
    step = tf.function(lambda gradient: optimizer.apply([gradient, gradient], variables))
    graph = step.get_concrete_function(tf.TensorSpec((3,))).graph
    types = [op.type for op in graph.get_operations()]
    assert types.count("ResourceApplyAdam") == 2
    assert "Sqrt" not in types
