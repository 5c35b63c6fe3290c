"""Tests of the fused batch normalisation, beside Keras's own."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from laperm_lib.paper.normalization import BatchNormalization

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_TORCH = keras.backend.backend() == "torch"  # Keras's use of its compiler warns
NOT_JAX = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 here")


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(30, 20, shape).astype("float32")


def made(layer_class: type[layers.Layer], shape: tuple[int, ...], **kwargs) -> layers.Layer:
    """A layer whose weights are neither zeros nor ones."""
    layer = layer_class(**kwargs)
    layer.build(shape)
    for number, variable in enumerate(layer.variables):
        variable.assign(np.random.default_rng(number).uniform(0.5, 2, variable.shape))
    return layer


def unwanted(*_: object) -> None:
    raise AssertionError("Keras's own computation was expected.")


def trained(
    layer_class: type[layers.Layer], x: np.ndarray, compiled: bool = False, **kwargs
) -> list[np.ndarray]:
    """Outputs, and the weights behind two steps of plain gradient descent by a batch."""
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), layer := made(layer_class, x.shape, **kwargs)]
    )
    outputs = ops.convert_to_numpy(ops.cast(model(x, training=True), "float32"))
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(), jit_compile=compiled)
    targets = np.random.default_rng(5).normal(size=x.shape).astype("float32")
    model.fit(x, targets, batch_size=len(x), epochs=2, verbose=0)
    return [outputs, *(ops.convert_to_numpy(variable) for variable in layer.variables)]


@given(
    n=st.integers(1, 5), side=st.integers(1, 4), channels=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_normalises_a_batch_and_keeps_its_moments_as_keras_does(n, side, channels, seed):
    x = images(n, side, side + 1, channels, seed=seed)
    results = []
    for layer_class in (layers.BatchNormalization, BatchNormalization):
        layer = made(layer_class, x.shape)
        outputs = ops.convert_to_numpy(layer(x, training=True))
        results.append([outputs, *map(ops.convert_to_numpy, layer.variables)])
    for ours, keras_own in zip(*results, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 1e-2), ("mixed_float16", 2e-3)]
)
@pytest.mark.parametrize("compiled", [False] if ON_TORCH else [False, True])
def test_trains_as_keras_does(dtype, tolerance, compiled):
    x = images(6, 5, 4, 3)
    ours, keras_own = (
        trained(layer_class, x, compiled, dtype=dtype)
        for layer_class in (BatchNormalization, layers.BatchNormalization)
    )
    for one, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_gives_the_gradient_of_images_as_keras_does():
    x, target = images(4, 3, 3, 2), images(4, 3, 3, 2, seed=1)
    gradients = []
    for layer_class in (BatchNormalization, layers.BatchNormalization):
        start = layers.Conv2D(2, 1, kernel_initializer="ones")
        model = keras.Sequential([keras.Input(x.shape[1:]), start, made(layer_class, x.shape)])
        before = ops.convert_to_numpy(start.kernel)
        model.compile(
            keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError(), jit_compile=False
        )
        model.fit(x, target, batch_size=4, verbose=0)
        gradients.append(ops.convert_to_numpy(start.kernel) - before)
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-6)
    assert np.abs(gradients[0]).max() > 1e-5


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ((6, 7), {}),
        ((6, 5, 7), {}),
        ((4, 3, 3, 2), {"axis": 1}),
        ((4, 3, 3, 2), {"scale": False}),
        ((4, 3, 3, 2), {"center": False}),
        pytest.param((4, 3, 3, 2), {"dtype": "float64"}, marks=NOT_JAX),
        ((4, 3, 3, 2), {"renorm": True}),
    ],
)
def test_what_does_not_fit_is_keras_own_computation(shape, kwargs, monkeypatch):
    monkeypatch.setattr(BatchNormalization, "_fused", unwanted)
    x = images(*shape)
    ours, keras_own = (
        trained(layer_class, x, **kwargs)
        for layer_class in (BatchNormalization, layers.BatchNormalization)
    )
    for one, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("trainable", "training"), [(True, False), (False, True)])
def test_inference_is_keras_own_computation(trainable, training):
    x = images(4, 3, 3, 2)
    ours, keras_own = (
        ops.convert_to_numpy(made(layer_class, x.shape, trainable=trainable)(x, training=training))
        for layer_class in (BatchNormalization, layers.BatchNormalization)
    )
    np.testing.assert_array_equal(ours, keras_own)


def test_a_mask_is_obeyed():
    x = images(2, 3, 3, 2)
    mask = np.zeros((2, 3, 3), bool)
    mask[0] = True
    ours, keras_own = (
        ops.convert_to_numpy(made(layer_class, x.shape)(x, training=True, mask=mask))
        for layer_class in (BatchNormalization, layers.BatchNormalization)
    )
    np.testing.assert_array_equal(ours, keras_own)


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
    assert type(layer) is BatchNormalization
    assert layer.momentum == 0.5
