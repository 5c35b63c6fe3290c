import hashlib
import logging
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from laperm_lib.errors import WeightFileError
from laperm_lib.paper import datasets, networks
from laperm_lib.paper.evaluation import accuracy
from laperm_lib.paper.published import _SHA256, load_published


@pytest.fixture
def published(repository):
    """A function that gives the path of a published file, and skips if it is not there."""

    def require(filename):
        folder = Path(
            os.environ.get("LAPERM_PUBLISHED_DIR")
            or repository.parent / "shared" / "reference" / "published_weights"
        )
        if not (folder / filename).is_file():
            pytest.skip(f"needs {filename}: set LAPERM_PUBLISHED_DIR to the folder that holds it")
        return folder / filename

    return require


@pytest.mark.parametrize(
    ("name", "filename", "images", "expected"),
    [
        ("conv7", "Conv7.h5", 10_000, 0.9972),
        ("f1", "F1.h5", 10_000, 0.8546),
        ("resnet50", "resnet50.h5", 300, 273 / 300),
        pytest.param("resnet50", "resnet50.h5", 10_000, 0.9251, marks=pytest.mark.slow),
    ],
)
def test_published_networks_have_their_published_accuracy(
    name, filename, images, expected, published, data_dir
):
    path = published(filename)
    dataset_name = networks.spec(name).dataset
    dataset = datasets.load(dataset_name, data_dir(f"{dataset_name}.npz"))
    model = load_published(networks.build(name, seed=0), path, known_only=True)
    _, x_test = networks.preprocess(name, dataset)
    # Of CIFAR-10's test set 34 images may be decoded from JPEG; one image on MNIST is 0.01 %.
    tolerance = 0.0005 if dataset_name == "cifar10" else 0.00005
    found = accuracy(model, x_test[:images], dataset.y_test[:images])
    assert found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("filename", _SHA256)
def test_the_authors_files_are_known(filename, published):
    assert hashlib.sha256(published(filename).read_bytes()).hexdigest() == _SHA256[filename]


def network(use_bias=True):
    """Two convolutions with normalisation between them, and a dense layer."""
    x = image = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 1, name="conv2d")(x)
    x = keras.layers.BatchNormalization(name="batch_normalization")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    x = keras.layers.Conv2D(2, 1, name="conv2d_1")(x)
    x = keras.layers.Conv2D(2, 2, name="conv2d_2")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(image, keras.layers.Dense(3, use_bias=use_bias, name="dense")(x))


TWO = (2,)
SHAPES = {
    "conv2d_9": {"kernel": (1, 1, 1, 2), "bias": TWO},
    "batch_normalization_3": {
        **{"gamma": TWO, "beta": TWO, "moving_mean": TWO, "moving_variance": TWO},
    },
    "dropout_4": {},
    "conv2d_10": {"kernel": (1, 1, 2, 2), "bias": TWO},
    "conv2d_11": {"kernel": (2, 2, 2, 2), "bias": TWO},
    "flatten_1": {},
    "dense_7": {"kernel": (18, 3), "bias": (3,)},
}
OURS = {"conv2d_9": "conv2d", "conv2d_10": "conv2d_1", "conv2d_11": "conv2d_2"}
OURS |= {"batch_normalization_3": "batch_normalization", "dense_7": "dense"}


def contents():
    """Random values for `network`, by layer and variable, as an author's session numbers them."""
    generator = np.random.default_rng(0)
    return {
        layer: {v: generator.random(shape, np.float32) for v, shape in variables.items()}
        for layer, variables in SHAPES.items()
    }


def write(path, layers, group="", inner="{layer}/{variable}:0", order=None, text=False):
    """Write a file as tf.keras does: with the layers in a group or at the top, weights named by a
    pattern, layers listed in an order, and names as bytes or, as newer h5py stores them, text."""

    def attribute(names):
        return np.array([n.encode() for n in names]) if names and not text else list(names)

    with h5py.File(path, "w") as file:
        root = file.require_group(group) if group else file
        root.attrs["layer_names"] = attribute(order or list(layers))
        root.attrs["backend"] = b"tensorflow"
        for layer, variables in layers.items():
            layer_group = root.create_group(layer)
            names = {v: inner.format(layer=layer, variable=v) for v in variables}
            layer_group.attrs["weight_names"] = attribute(list(names.values()))
            for variable, name in names.items():
                layer_group[name] = variables[variable]
    return path


def edited(change, **how):
    """A function that writes a file and changes it."""

    def make(path, layers):
        write(path, layers, **how)
        with h5py.File(path, "a") as file:
            change(file)

    return make


def add_optimizer(file):
    """As in the file of a whole model."""
    file.attrs["model_config"] = "{}"
    moments = file.create_group("optimizer_weights")
    moments.attrs["weight_names"] = [b"Adam/conv2d_9/kernel/m:0"]
    moments["Adam/conv2d_9/kernel/m:0"] = np.zeros(3)
    file["model_weights"].create_group("top_level_model_weights").attrs["weight_names"] = []


def nest(file):
    """Put all layers into the group of a nested model."""
    names = [f"{layer}/{variable}" for layer, shapes in SHAPES.items() for variable in shapes]
    group = file.create_group("sequential_2")
    for layer in SHAPES:
        file.move(layer, f"sequential_2/{layer}")
    group.attrs["weight_names"] = names
    file.attrs["layer_names"] = [b"sequential_2"]


def options(**how):
    return edited(lambda file: None, **how)


@pytest.mark.parametrize(
    "write",
    [
        options(),
        options(text=True),
        options(group="model_weights"),
        options(inner="{layer}_1/{variable}:0"),
        options(inner="model_2/{layer}/{variable}:0"),
        options(inner="{layer}/{variable}_1:0"),
        options(inner="{variable}"),
        options(order=sorted(SHAPES, reverse=True)),
        edited(add_optimizer, group="model_weights"),
        edited(nest, inner="{variable}"),
    ],
)
def test_ways_in_which_such_files_are_written(write, tmp_path, caplog):
    """By others, with a warning or not at all."""
    model, layers, path = network(), contents(), tmp_path / "w.h5"
    write(path, layers)
    assert_refused(path, "none of the authors' files", known_only=True)
    with caplog.at_level(logging.WARNING):
        assert load_published(model, path) is model
    assert f"{path}: it is none of the authors' files" in caplog.text
    assert_loaded(model, layers)


def assert_loaded(model, layers):
    for theirs, ours in OURS.items():
        for variable in model.get_layer(ours).weights:
            value = keras.ops.convert_to_numpy(variable)
            np.testing.assert_array_equal(value, layers[theirs][variable.name])


def test_zero_bias_that_the_model_lacks(tmp_path):
    layers = contents()
    layers["dense_7"]["bias"][:] = 0
    path = str(write(tmp_path / "w.h5", layers))
    assert_loaded(load_published(network(use_bias=False), path), layers)
    layers["dense_7"]["bias"][1] = 1e-20
    write(path, layers)
    with pytest.raises(WeightFileError, match=r"dense_7.*bias.*not zero"):
        load_published(network(use_bias=False), path)
    for shape in ((2**30,), (2**40,)):  # no such memory is asked for
        instead(shape=shape)(tmp_path / "w.h5", contents())
        with pytest.raises(WeightFileError, match=rf"bias: the shape is \({shape[0]},\)"):
            load_published(network(use_bias=False), path)


def assert_refused(path, message, **how):
    """Loading fails, names the file and leaves the model as it was."""
    model = network()
    before = model.get_weights()
    with pytest.raises(WeightFileError, match=message) as caught:
        load_published(model, path, **how)
    assert str(path) in str(caught.value)
    assert all(map(np.array_equal, model.get_weights(), before))


_ZEROS = np.zeros((3, 3), np.float32)


@pytest.mark.parametrize(
    ("layer", "variables", "message"),
    [
        ("dense_7", {"bias": None}, "layer 'dense_7' lacks bias"),
        ("conv2d_11", None, r"2 layers 'conv2d'.*conv2d_9 to conv2d_10.*the model 3"),
        ("dense_8", {"kernel": _ZEROS}, r"2 layers 'dense'.*dense_7 to dense_8.*the model 1"),
        ("depthwise_conv2d", {"kernel": _ZEROS}, r"1 layers 'depthwise_conv2d'.*the model 0"),
        ("dense_7", {"renorm_mean": _ZEROS}, "'dense_7', renorm_mean: the model has no such"),
        ("dense_7", {"kernel": _ZEROS}, r"kernel: the shape is \(3, 3\), the model's \(18, 3\)"),
        (
            "conv2d_10",
            {"bias": np.float32([0, np.nan])},
            "'conv2d_10', bias: a value is NaN or inf",
        ),
        ("conv2d_10", {"kernel": np.full((1, 1, 2, 2), 1e300)}, "kernel: a value is NaN or inf"),
        ("conv2d_10", {"bias": np.zeros(2, np.int64)}, "'conv2d_10', bias: the type is int64"),
    ],
)
def test_files_that_do_not_fit_change_nothing(layer, variables, message, tmp_path):
    layers = contents()
    changed = layers.pop(layer, {}) | (variables or {})
    if variables is not None:
        layers[layer] = {name: value for name, value in changed.items() if value is not None}
    assert_refused(write(tmp_path / "w.h5", layers), message)


def keras_3(path, layers):
    network().save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def twice(file):
    file["dense_7"].attrs["weight_names"] = [b"dense_7/kernel:0"] * 2


BIAS = "dense_7/dense_7/bias:0"
LINKED = {BIAS: "dense_7/bias:0", "dense_7/dense_7": "dense_7/kernel:0", "dense_7": "dense_7"}
LINKS = [h5py.ExternalLink("/etc/other.h5", "/"), h5py.SoftLink("/old"), h5py.SoftLink("/none")]


def instead(link=None, place=BIAS, group="", **dataset):
    """As `options`, with a link, or a dataset that nothing is written into, in another's place."""

    def change(file):
        file.move(place, "old")
        if link is None:
            file.create_dataset(place, dataset.pop("shape", (3,)), "f4", **dataset)
        else:
            file[place] = link

    return edited(change, group=group)


def virtual(file):
    del file[BIAS]
    file.create_virtual_dataset(BIAS, h5py.VirtualLayout((3,), "f4"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, layers: None, "no such file"),
        (lambda path, layers: path.mkdir(), "no such file"),
        (lambda path, layers: path.write_bytes(b"PK" * 100), "damaged, or no HDF5 file"),
        (options(order=[*SHAPES, "dense_8"]), "lists a layer 'dense_8' but does not hold it"),
        (edited(lambda file: file.pop(BIAS)), "lists 'dense_7/bias:0' but does not hold it"),
        (edited(twice), "'dense_7' has two variables 'kernel'"),
        (keras_3, "layer_names.*tf.keras did not write it"),
        (edited(lambda file: file.attrs.update(layer_names=3)), "damaged, or no HDF5 file"),
        *(
            (instead(link, place), f"'{named}' is a link")
            for place, named in LINKED.items()
            for link in LINKS
        ),
        (instead(LINKS[1], "model_weights", "model_weights"), "'model_weights' is a link"),
        (instead(external=[("/etc/passwd", 0, 12)]), "dense_7.*bias.*in another file"),
        (edited(virtual), "dense_7.*bias.*in another file"),
        (instead(chunks=(2,)), "dense_7.*bias.*in chunks"),
        (instead(compression="gzip"), "dense_7.*bias.*compressed"),
        (instead(), "'dense_7', bias: it holds less than it says"),
    ],
)
def test_foreign_files_change_nothing(make, message, tmp_path):
    make(tmp_path / "w.h5", contents())
    assert_refused(tmp_path / "w.h5", message)


def test_truncated_files_and_models_that_cannot_be_matched(tmp_path):
    path = write(tmp_path / "w.h5", contents())
    with pytest.raises(ValueError, match="not built"):
        load_published(keras.Sequential([keras.layers.Dense(2)]), path)
    part = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    twice = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense"), part])
    with pytest.raises(ValueError, match="two layers named 'dense'"):
        load_published(twice, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 7):
        path.write_bytes(whole[:size])
        assert_refused(path, "damaged")
