"""Reading the weight files that the authors published: HDF5 as tf.keras 2 wrote it.

Such a file holds one group per layer, listed in the attribute `layer_names`; a group lists its
variables, as in `conv2d_14/kernel:0`, in the attribute `weight_names`. A file written by
`save_weights` has the layers at the top, one written by `model.save` under `model_weights`.

Three things stop Keras 3 from reading them. Layers are numbered from wherever the author's session
stood, they are listed in the order of the graph and not of creation, and a file can hold biases
that its notebook's model does not have. So layers are matched here by kind and number: the n-th
`conv2d` of the file is the n-th of the model, however either counts.
"""

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import keras
import numpy as np

from laperm_lib._arguments import check_bool
from laperm_lib.errors import WeightFileError, in_short
from laperm_lib.paper._extras import extra

with extra("paper"):
    import h5py

_log = logging.getLogger(__name__)

_Layer = TypeVar("_Layer")

_SHA256 = {
    "Conv7.h5": "2634f29c78a57faabf3ff08c408faa1a01b120f43b67d841b479d2ffc07497bb",
    "F1.h5": "5f80262404e616c7b09ed73f2b754d213ff4adf79649d835e07b2cc6e2845d48",
    "F2.h5": "f475ef74edd24b3e2e23ff95873fb8e1b5e1fb4a9e3d381748bfe5bf0c2f11a1",
    "resnet50.h5": "0bf9e70f9e24686a93214acfdd3adaebaa971ad683412d2a221885274a06a6a4",
    "resnet50_30.h5": "d82ffc3660c3fe77a3ecb7acf0c794cefd9dd71b959809191ff16baf35f4494e",
    "resnet50_50.h5": "e1a4af7c114c30b74f4f7a742edfafe1db5d6b385c1c48781c6292224e22302f",
    "resnet50_70.h5": "2a803286a6b3fc644ffbd69e7c847264e9c262df29b16afe0e27027a437d72eb",
}
"""The authors' files by name."""


def load_published(
    model: keras.Model, path: str | os.PathLike[str], *, known_only: bool = False
) -> keras.Model:
    """Load a weight file of tf.keras into a model of this library.

    A variable of the file that the model lacks is an error, except a bias that is zero throughout:
    the published F1 file has one. Everything is read and checked before anything is assigned. HDF5
    has no checksums, so the authors' files are known by their SHA-256; damage to others may go
    unnoticed, and a warning is logged.

    Args:
        model: a built model with the layers of the file, such as `networks.build` makes.
            Its layers are named by kind and number, as Keras names them.
        path: the HDF5 file, weights only or a whole model.
        known_only: whether any file but the authors' is an error. Default: it is a warning.

    Returns:
        The same model, with its weights replaced.

    Raises:
        ValueError: if the model is not built or two of its layers have one name.
        WeightFileError: if the file is missing, damaged or of another kind, or if it and the model
            differ in layers, variables or shapes, or a value is not finite, not in the file, or
            stored in a way that tf.keras never does. The model is unchanged.

    Examples:
        >>> from laperm_lib.paper import networks
        >>> load_published(networks.build("f1", seed=0), "missing.h5")
        Traceback (most recent call last):
        laperm_lib.errors.WeightFileError: missing.h5: there is no such file.
    """
    if not model.built:
        raise ValueError(f"'{model.name}' is not built, so it has no weights to replace.")
    check_bool("known_only", known_only)
    wanted = _wanted(model)
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise WeightFileError(f"{path}: there is no such file.")
    try:
        with open(path, "rb") as content:
            known = hashlib.file_digest(content, "sha256").hexdigest() in _SHA256.values()
        if not known:
            unknown = "it is none of the authors' files, by its SHA-256"
            if known_only:
                raise WeightFileError(f"{unknown}.")
            _log.warning("%s: %s, so damage may go unnoticed.", path, unknown)
        with h5py.File(path, "r") as file:
            new = _new_values(wanted, _stored(file))
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises many kinds, depending on where a file is damaged
        raise WeightFileError(f"{path} is damaged, or no HDF5 file: {in_short(error)}") from None
    for variable, value in new:
        variable.assign(value)
    return model


def _wanted(model: keras.Model) -> dict[str, dict[str, Any]]:
    """The variables of the model by layer and variable name."""
    wanted: dict[str, dict[str, Any]] = {}
    for layer in model._flatten_layers(include_self=False):
        if layer.weights and not list(layer._flatten_layers(include_self=False)):
            if layer.name in wanted:
                raise ValueError(f"'{model.name}' has two layers named '{layer.name}'.")
            wanted[layer.name] = {variable.name: variable for variable in layer.weights}
    return wanted


def _stored(file: h5py.File) -> dict[str, dict[str, h5py.Dataset]]:
    """The datasets of the file by layer and variable name."""
    root = _member(file, "model_weights") or file
    stored: dict[str, dict[str, h5py.Dataset]] = defaultdict(dict)
    for group_name in _names(root, "layer_names"):
        group = _member(root, group_name)
        if not isinstance(group, h5py.Group):
            raise WeightFileError(f"it lists a layer '{group_name}' but does not hold it.")
        for weight_name in _names(group, "weight_names"):
            dataset = _member(group, weight_name)
            if not isinstance(dataset, h5py.Dataset):
                raise WeightFileError(
                    f"layer '{group_name}' lists '{weight_name}' but does not hold it."
                )
            layer, variable = _owner(group_name, weight_name)
            if variable in stored[layer]:
                raise WeightFileError(f"layer '{layer}' has two variables '{variable}'.")
            stored[layer][variable] = dataset
    return stored


def _member(group: Any, path: str) -> Any:
    """What lies in a group under a path, or None; h5py would follow a link into another file."""
    for name in path.encode().split(b"/"):
        if b"\0" in name or not isinstance(group, h5py.Group) or not group.id.links.exists(name):
            return None
        if group.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise WeightFileError(f"'{path}' is a link, which tf.keras never writes.")
        group = group[name]
    return group


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, of at most 64 KB: longer ones, which tf.keras splits, are refused."""
    if attribute not in group.attrs:
        raise WeightFileError(
            f"'{group.name}' has no attribute '{attribute}', so tf.keras did not write it."
        )
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _owner(group_name: str, weight_name: str) -> tuple[str, str]:
    """Layer and variable of a weight such as `conv2d_1_2/kernel:0` in the group `conv2d_1`.

    The group names the layer, unless it is that of a nested model (`sequential`): then the weight's
    own path does.
    """
    *scopes, variable = weight_name.split("/")
    # tf.keras appends ":0", and "_1" to a name that its graph had already used.
    variable = re.sub(r"(_\d+)?(:\d+)?$", "", variable)
    scope = scopes[-1] if scopes else group_name
    same_kind = _kind_and_number(scope)[0] == _kind_and_number(group_name)[0]
    return (group_name if same_kind else scope), variable


def _kind_and_number(name: str) -> tuple[str, tuple[int, ...]]:
    """Split `conv2d_12` into ("conv2d", (12,)) and `conv2d` into ("conv2d", ())."""
    kind = re.sub(r"(_\d+)+$", "", name)
    return kind, tuple(int(part) for part in name[len(kind) :].split("_")[1:])


def _by_kind(layers: Mapping[str, _Layer]) -> dict[str, list[tuple[str, _Layer]]]:
    """The layers of each kind, in the order of their numbers."""
    kinds: dict[str, list[tuple[str, _Layer]]] = defaultdict(list)
    for name in sorted(layers, key=lambda name: _kind_and_number(name)[1]):
        kinds[_kind_and_number(name)[0]].append((name, layers[name]))
    return kinds


def _new_values(
    wanted: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, h5py.Dataset]]
) -> list[tuple[Any, np.ndarray]]:
    """Match the file with the model; give each variable of the model and its new value."""
    theirs, ours = _by_kind(stored), _by_kind(wanted)
    for kind in sorted(theirs.keys() | ours.keys()):
        names, in_model = [name for name, _ in theirs.get(kind, ())], len(ours.get(kind, ()))
        if len(names) != in_model:
            listed = f" ({names[0]} to {names[-1]})" if names else ""
            raise WeightFileError(
                f"it has {len(names)} layers '{kind}' with weights{listed}, the model {in_model}."
            )
    new: list[tuple[Any, np.ndarray]] = []
    for kind, layers in ours.items():
        for (_, variables), (name, datasets) in zip(layers, theirs[kind], strict=True):
            new += _layer_values(variables, name, datasets)
    return new


def _layer_values(
    variables: Mapping[str, Any], name: str, datasets: Mapping[str, h5py.Dataset]
) -> list[tuple[Any, np.ndarray]]:
    """The new values of one layer, whose name in the file is `name`."""
    missing = sorted(variables.keys() - datasets.keys())
    if missing:
        raise WeightFileError(f"layer '{name}' lacks {', '.join(missing)}.")
    new = []
    for variable_name, dataset in datasets.items():
        where = f"layer '{name}', {variable_name}"
        variable = variables.get(variable_name)
        if variable is None and (variable_name != "bias" or "kernel" not in variables):
            raise WeightFileError(f"{where}: the model has no such variable.")
        # A bias that the model lacks has one value for each neuron.
        shape = tuple(variables["kernel"].shape[-1:] if variable is None else variable.shape)
        if dataset.shape != shape:
            raise WeightFileError(f"{where}: the shape is {dataset.shape}, the model's {shape}.")
        if dataset.dtype.kind != "f":
            raise WeightFileError(f"{where}: the type is {dataset.dtype}, not a float.")
        # Read only what lies in the file in one piece; HDF5 makes up what is missing.
        layout = dataset.id.get_create_plist().get_layout()
        if dataset.external or layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT):
            raise WeightFileError(
                f"{where}: its values are in another file, in chunks or compressed, which tf.keras "
                "never writes."
            )
        if dataset.id.get_storage_size() != dataset.nbytes:
            raise WeightFileError(f"{where}: it holds less than it says.")
        value = dataset.astype(np.float32)[()]
        if not np.isfinite(value).all():
            raise WeightFileError(f"{where}: a value is NaN or infinite.")
        if variable is not None:
            new.append((variable, value))
        elif value.any():
            raise WeightFileError(f"{where}: it is not zero, but the model has no bias there.")
    return new
