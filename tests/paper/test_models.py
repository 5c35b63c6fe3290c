import hashlib

import keras
import numpy as np
import pytest

from laperm_lib.initializers import SeededInitializer
from laperm_lib.paper import datasets
from laperm_lib.paper import networks as models

PARAMETERS = {
    # Kernels, biases and four numbers per channel and normalisation.
    "conv2": 4_304_202,
    "conv4": 2_429_514,
    "conv7": 325_578,
    "conv13": 15_001_418,
    "resnet50": 763_882,
    "f1": 784 * 10,
    "f2": 784 * 128 + 128 * 64 + 64 * 10,
    "mlp": 784 * 800 + 800 * 10,
}
# SHA-256 (first 16 digits) of all initial weights with seed 1, the same on every backend.
BITS = {
    "conv2": "efed6afec85a19a3",
    "conv4": "b1ab0fb25598bab3",
    "conv7": "72fa5cdf445ef554",
    "conv13": "ddd49cb95d2aac49",
    "resnet50": "60346916eaa9ea49",
    "f1": "c89aee5e4658c6bf",
    "f2": "3eeed91ae454215f",
    "mlp": "d65bc09561d4ac2f",
}


def kinds(model):
    return [layer.name.rstrip("0123456789").rstrip("_") for layer in model.layers]


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize("name", models.names())
def test_every_network_has_its_size_and_bits(name):
    model = models.build(name, seed=1)
    assert model.name == name
    assert model.count_params() == PARAMETERS[name]
    assert model.input_shape[1:] == models.spec(name).input_shape
    assert model.output_shape == (None, 10)
    sha256 = hashlib.sha256(b"".join(numpy(w).tobytes() for w in model.weights))
    assert sha256.hexdigest().startswith(BITS[name])


@pytest.mark.parametrize("name", ["conv4", "conv7", "f2"])
def test_names_count_within_the_model(name):
    first = [layer.name for layer in models.build(name, seed=0).layers]
    assert [layer.name for layer in models.build(name, seed=0).layers] == first
    assert len(set(first)) == len(first)


def test_conv7_layers():
    model = models.build("conv7", seed=0)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [tuple(x.kernel.shape) for x in convolutions] == [
        (3, 3, 1, 32),
        (3, 3, 32, 32),
        (5, 5, 32, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 64),
        (5, 5, 64, 64),
        (4, 4, 64, 128),
    ]
    assert [x.strides for x in convolutions] == [(1, 1), (1, 1), (2, 2)] * 2 + [(1, 1)]
    assert [x.name for x in convolutions] == ["conv2d"] + [f"conv2d_{n}" for n in range(1, 7)]
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.4, 0.4, 0.4]


def test_conv2_layers():
    block = ["conv2d", "batch_normalization"]
    assert kinds(models.build("conv2", seed=0)) == [
        "input",
        *block,
        "dropout",
        *block,
        "max_pooling2d",
        "flatten",
        *("dense", "dropout", "batch_normalization"),
        *("dense", "batch_normalization", "dropout"),
        "dense",
    ]


def test_conv13_layers():
    model = models.build("conv13", seed=0)
    filters = [x.filters for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert filters == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.3] + [0.4] * 7 + [0.5, 0.5]


def test_resnet50_layers():
    model = models.build("resnet50", seed=0)
    convolutions = {x.name: x for x in model.layers if isinstance(x, keras.layers.Conv2D)}
    assert len(convolutions) == 51
    # As in the published file, where the first convolution is number 84.
    shortcuts = {n: tuple(x.kernel.shape) for n, x in convolutions.items() if x.strides == (2, 2)}
    assert shortcuts == {
        "conv2d_17": (3, 3, 16, 32),
        "conv2d_19": (1, 1, 16, 32),
        "conv2d_34": (3, 3, 32, 64),
        "conv2d_36": (1, 1, 32, 64),
    }
    normalizations = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(normalizations) == 49
    assert {(x.momentum, x.epsilon) for x in normalizations} == {(0.99, 0.001)}
    assert not any(numpy(x.bias).any() for x in convolutions.values())


@pytest.mark.parametrize(
    ("name", "regularized"),
    list(zip(models.names(), (4, 6, 0, 14, 51, 0, 2, 0), strict=True)),
)
def test_all_kernels_but_the_last_are_regularized_where_said(name, regularized):
    model = models.build(name, seed=0)
    kernels = [x for x in model.layers if hasattr(x, "kernel")]
    decays = [x.kernel_regularizer and float(x.kernel_regularizer.l2) for x in kernels]
    none = len(kernels) - regularized
    assert decays == [pytest.approx(1e-4)] * regularized + [None] * none
    assert not any(x.bias_regularizer for x in kernels)


def test_values_are_those_of_the_initializer():
    model = models.build("conv7", seed=3, initializer="he_normal")
    for layer, variable in [("conv2d_4", "kernel"), ("conv2d_4", "bias"), ("dense", "kernel")]:
        actual = numpy(getattr(model.get_layer(layer), variable))
        expected = SeededInitializer("he_normal", 3, f"{layer}/{variable}").values(actual.shape)
        np.testing.assert_array_equal(actual, expected)


def test_seeds_and_initializers_matter():
    first = numpy(models.build("f1", seed=0).weights[0])
    assert not np.array_equal(first, numpy(models.build("f1", seed=1).weights[0]))
    other = models.build("f1", seed=0, initializer="glorot_uniform")
    assert not np.array_equal(first, numpy(other.weights[0]))


def test_saving_and_loading(tmp_path):
    model = models.build("conv7", seed=0)
    model.save(tmp_path / "conv7.keras")
    loaded = keras.saving.load_model(tmp_path / "conv7.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        assert a.path == b.path
        np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg", "seed": 0}, "conv2, conv4, conv7, conv13, resnet50, f1, f2, mlp"),
        ({"name": "f1", "seed": -1}, "at least 0"),
        ({"name": "f1", "seed": "0"}, "at least 0"),
        ({"name": "f1", "seed": 0, "initializer": "ones"}, "he_normal"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(**arguments)


def images(shape):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (9, *shape), dtype=np.uint8)
    y = np.zeros(9, np.int64)
    return datasets.Dataset("test", x, y, x[:4], y[:4], ("0",), "", "")


@pytest.mark.parametrize("name", ["conv7", "f1", "f2"])
def test_mnist_networks_take_pixels_from_0_to_1(name):
    dataset = images((28, 28, 1))
    x_train, x_test = models.preprocess(name, dataset)
    assert x_train.dtype == x_test.dtype == np.float32
    np.testing.assert_array_equal(x_train, dataset.x_train / np.float32(255))
    np.testing.assert_array_equal(x_test, x_train[:4])


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv13"])
def test_cifar_networks_take_raw_pixels(name):
    dataset = images((32, 32, 3))
    x_train, x_test = models.preprocess(name, dataset)
    assert x_train.dtype == x_test.dtype == np.float32
    np.testing.assert_array_equal(x_train, dataset.x_train)
    np.testing.assert_array_equal(x_test, dataset.x_test)


def test_resnet50_takes_pixels_minus_the_mean_training_image():
    dataset = images((32, 32, 3))
    x_train, x_test = models.preprocess("resnet50", dataset)
    assert x_train.dtype == x_test.dtype == np.float32
    np.testing.assert_allclose(x_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(x_test, x_train[:4])
    assert x_train.min() < -0.3


def test_pixels_can_be_standardised_as_the_notebooks_meant_to():
    dataset = images((32, 32, 3))
    x_train, x_test = models.preprocess("conv2", dataset, "standardised")
    pixels = dataset.x_train.astype(np.float64)
    expected = (pixels - pixels.mean()) / pixels.std()
    assert x_train.dtype == x_test.dtype == np.float32
    np.testing.assert_allclose(x_train, expected, atol=1e-6)
    np.testing.assert_array_equal(x_test, x_train[:4])


@pytest.mark.parametrize("name", ["conv2", "f1", "resnet50"])
def test_pixels_as_published_can_be_asked_for_by_name(name):
    network = models.spec(name)
    dataset = images(network.input_shape)
    by_name = models.preprocess(name, dataset, network.pixels)
    for ours, theirs in zip(by_name, models.preprocess(name, dataset), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_preprocess_refuses_unknown_pixels():
    with pytest.raises(ValueError, match="Unknown pixels 'bright'; there are unit, raw"):
        models.preprocess("conv2", images((32, 32, 3)), "bright")


def test_preprocess_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*\(32, 32, 3\)"):
        models.preprocess("f1", images((32, 32, 3)))
