"""The paper's networks: the same bits for the same description and seed, as published."""

import hashlib
import json
import re
from dataclasses import replace

import keras
import numpy as np
import pytest

from laperm_lib import sparsity
from laperm_lib.initializers import SeededInitializer
from laperm_lib.paper import datasets, networks
from laperm_lib.paper.networks import PaperNetwork

# By name: SHA-256 (first 16 digits) of all initial weights with seed 1, the same on every backend;
# how many kernels are regularized, not the last; strides of convolutions; rates of dropout.
NETWORKS = {
    "conv2": ("efed6afec85a19a3", 4, [1] * 2, [0.3, 0.5, 0.5]),
    "conv4": ("b1ab0fb25598bab3", 6, [1] * 4, [0.3, 0.4, 0.5, 0.5]),
    "conv7": ("72fa5cdf445ef554", 0, [1, 1, 2, 1, 1, 2, 1], [0.4] * 3),
    "conv13": ("ddd49cb95d2aac49", 14, [1] * 13, [0.3] + [0.4] * 7 + [0.5, 0.5]),
    # Numbers 19 and 36 are shortcuts, as in the published file.
    "resnet50": ("60346916eaa9ea49", 51, [1 + (n in (17, 19, 34, 36)) for n in range(51)], []),
    "f1": ("c89aee5e4658c6bf", 0, [], []),
    "f2": ("3eeed91ae454215f", 2, [], []),
    "mlp": ("d65bc09561d4ac2f", 0, [], []),
    "conv6_32": ("6e7f06685c14e4d6", 0, [1] * 7, []),
    "conv6_64": ("e84936fdc3bf3588", 0, [1] * 7, []),
    "conv6_64_silu": ("e84936fdc3bf3588", 0, [1] * 7, []),
    "conv6_64_relu": ("e84936fdc3bf3588", 0, [1] * 7, []),
    "conv6_mnist": ("dfd01eae5687b890", 0, [1] * 7, []),
}


@pytest.mark.parametrize("name", networks.names())
def test_every_network_has_its_bits_and_layers(name):
    bits, regularized, strides, rates = NETWORKS[name]
    model = networks.build(name, seed=1)
    assert (model.name, model.output_shape) == (name, (None, 10))
    assert model.input_shape[1:] == networks.spec(name).input_shape
    sha256 = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights()))
    assert sha256.hexdigest().startswith(bits)
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.strides for x in convolutions] == [(stride, stride) for stride in strides]
    assert [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)] == rates
    kernels = [x for x in model.layers if hasattr(x, "kernel")]
    decays = [x.kernel_regularizer and float(x.kernel_regularizer.l2) for x in kernels]
    none = [None] * (len(kernels) - regularized)
    assert decays == [pytest.approx(1e-4)] * regularized + none
    assert not any(x.bias_regularizer for x in kernels)


def test_dropout_and_normalisation_swap_places_in_conv2():
    kinds = [layer.name.split("_")[0] for layer in networks.build("conv2", seed=0).layers]
    block = ["conv2d", "batch"]
    assert kinds[:8] == ["input", *block, "dropout", *block, "max", "flatten"]
    dense = ["dense", "dropout", "batch", "dense", "batch", "dropout", "dense"]
    assert kinds[8:] == dense


def test_values_are_those_of_the_initializer():
    model = networks.build("conv7", seed=3, initializer="he_normal")
    for layer, variable in [("conv2d_4", "kernel"), ("conv2d_4", "bias"), ("dense", "kernel")]:
        actual = keras.ops.convert_to_numpy(getattr(model.get_layer(layer), variable))
        expected = SeededInitializer("he_normal", 3, f"{layer}/{variable}").values(actual.shape)
        np.testing.assert_array_equal(actual, expected)


PIXELS = {"conv7": "unit", "f1": "unit", "f2": "unit", "resnet50": "centred", "mlp": "centred"} | {
    name: "standardised" for name in networks.names() if name.startswith("conv6")
}


@pytest.mark.parametrize("name", networks.names())
def test_pixels_are_scaled_as_published_or_as_asked_for(name):
    shape = networks.spec(name).input_shape
    x = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8)
    y = np.zeros(9, np.int64)
    dataset = datasets.Dataset("test", x, y, x[:4], y[:4], ("0",), "", "")
    raw = x.astype(np.float64)
    for pixels, expected in {
        "unit": raw / 255,
        "raw": raw,
        "centred": (raw - raw.mean(axis=0)) / 255,
        "standardised": (raw - raw.mean()) / raw.std(),
    }.items():
        x_train, x_test = networks.preprocess(name, dataset, pixels)
        assert x_train.dtype == x_test.dtype == np.float32
        tolerance = 0 if pixels in ("unit", "raw") else 1e-6
        np.testing.assert_allclose(x_train, expected.astype("float32"), rtol=0, atol=tolerance)
        np.testing.assert_array_equal(x_test, x_train[:4])
        if pixels == PIXELS.get(name, "raw"):
            np.testing.assert_array_equal(x_train, networks.preprocess(name, dataset)[0])
    with pytest.raises(ValueError, match="Unknown pixels 'bright'; there are unit, raw"):
        networks.preprocess(name, dataset, "bright")
    other = "f1" if shape == (32, 32, 3) else "conv2"
    both = (re.escape(str(size)) for size in (networks.spec(other).input_shape, shape))
    with pytest.raises(ValueError, match=".*".join(both)):
        networks.preprocess(other, dataset)


F2 = PaperNetwork(model="f2", initializer="glorot_uniform")


@pytest.mark.parametrize("constant_fan_in", [False, True])
def test_a_network_is_the_model_with_a_shared_value(constant_fan_in):
    keep, how = (0.1, 0.2, 0.3), {"constant_fan_in": constant_fan_in}
    expected = networks.build("f2", seed=5, initializer="glorot_uniform")
    report = sparsity.agnosticize(expected, 0.03, keep, seed=5, **how)
    model, ours = replace(F2, shared_value=0.03, keep=keep, **how).build(5)
    assert ours == report
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))


def test_a_network_is_the_model_pruned_in_its_precision():
    expected = networks.build("f2", seed=5, initializer="glorot_uniform")
    assert all(map(np.array_equal, F2.build(5)[0].get_weights(), expected.get_weights()))
    report = sparsity.random_prune(expected, 0.5, seed=5)
    model, ours = replace(F2, pruned=0.5, precision="mixed_bfloat16").build(5)
    assert ours == report
    assert all(map(np.array_equal, model.get_weights(), expected.get_weights()))
    assert model.layers[2].compute_dtype == "bfloat16"
    assert model.weights[0].dtype == "float32"


def test_numbers_of_any_kind_are_kept_as_those_of_python():
    network = PaperNetwork(model="f2", shared_value=1, keep=np.full(3, 0.5, np.float32))
    assert network == PaperNetwork(model="f2", shared_value=1.0, keep=(0.5,) * 3)
    assert json.dumps([network.shared_value, network.keep]) == "[1.0, [0.5, 0.5, 0.5]]"
    assert [replace(F2, pruned=share).pruned for share in (0, 1)] == [0, 1]


def test_impossible_networks():
    with pytest.raises(
        ValueError,
        match="there are " + ", ".join(NETWORKS),
    ):
        networks.build("vgg", seed=0)
    for how, why in (
        *(({"seed": seed}, "at least 0") for seed in (-1, "0")),
        ({"seed": 0, "initializer": "ones"}, "he_normal"),
    ):
        with pytest.raises(ValueError, match=why):
            networks.build("f1", **how)
    for wrong, why in (
        ({"model": "conv3"}, "Unknown model 'conv3'"),
        ({"initializer": "zeros"}, "Unknown initializer 'zeros'"),
        ({"precision": "float8"}, "Unknown precision 'float8'; there are float32, mixed_bfloat16"),
        ({"pruned": 1.5}, "pruned is a number at least 0 and at most 1, got 1.5"),
        ({"keep": (0.5,)}, "together or not at all"),
        ({"shared_value": 0.1}, "together or not at all"),
        ({"shared_value": 0.1, "keep": 0.6}, "keep takes several values, as in"),
        ({"shared_value": 0.1, "keep": (0.6, 6.0)}, "keep is a number at least 0 and at most 1"),
        ({"shared_value": 0.1, "keep": (0.6,), "pruned": 0.5}, "pruned is 0"),
        ({"pruned": 0.5, "constant_fan_in": True}, "for networks with a shared value"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(F2, **wrong)


def test_the_fixed_layer_whitens_patches_of_the_images_it_is_set_for():
    images = np.random.default_rng(0).normal(size=(500, 32, 32, 3)).astype("float32")
    images = images @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 2]], "float32")  # correlated
    model = networks.build("conv6_32", seed=0)
    networks.whiten(model, images)
    layer = model.get_layer("whitening")
    patches = keras.ops.convert_to_numpy(layer(images)).reshape(-1, 24)
    np.testing.assert_array_equal(patches[:, :12], -patches[:, 12:])
    np.testing.assert_allclose(np.cov(patches[:, :12], rowvar=False), np.eye(12), atol=0.02)
    assert not layer.trainable_variables
