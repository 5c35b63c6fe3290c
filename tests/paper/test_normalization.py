"""The fused batch normalisation, beside Keras's own."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from laperm_lib.paper.normalization import BatchNormalization

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
    results = []
    for layer_class in BOTH:
        layer = made(layer_class, x.shape)
        outputs = ops.convert_to_numpy(layer(x, training=True))
        results.append([outputs, *map(ops.convert_to_numpy, layer.variables)])
    assert_close(results, 1e-4)


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
