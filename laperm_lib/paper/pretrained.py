"""Trained networks as small files: how they start, and the arrangement that training found.

A network trained by permuting has the values of its start, and the start is a model's name and a
seed (`laperm_lib.paper.initial_network`). So the file holds the start, the code of how all permuted
weight vectors are arranged (`laperm_lib.coding`), and, as they are, the few weights that were not
permuted, as a rule those of batch normalisation. These hardly compress.

The file is in safetensors format: a JSON header and raw tensors, in which nothing can be run. In
its metadata is a hash of all that it holds, which is compared before anything is built, and one of
the weights of the network, which is compared before the network is given out. Weights are bit for
bit the same on TensorFlow, JAX and PyTorch.

A network that was loaded is a Keras model like any other, to be saved as Keras does it::

    model = laperm_lib.paper.load_pretrained("conv7")
    model.save("conv7.keras")
    model.save_weights("conv7.weights.h5")
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from laperm_lib import coding, files, weight_vectors
from laperm_lib.errors import WeightFileError
from laperm_lib.paper import manifest
from laperm_lib.paper.initial_network import InitialNetwork
from laperm_lib.permutation import from_matrix, is_permutation, to_matrix
from laperm_lib.weight_vectors import Kind, WeightVectors

SUFFIX = ".safetensors"

_KEY = "laperm_lib"  # of the metadata
_CODE = "arrangement"
_FORMAT = 1


@dataclass(frozen=True)
class Stored:
    """What a file holds of a network.

    Args:
        initial: how the network starts.
        kinds: the kinds of weight vectors that were permuted.
        code: their arrangement, as `laperm_lib.coding.encode` gives it for all of them together.
        others: the weights that were not permuted, by path.
        weights_sha256: the hash of all weights of the network.
    """

    initial: InitialNetwork
    kinds: tuple[Kind, ...]
    code: bytes
    others: dict[str, np.ndarray]
    weights_sha256: str

    def start(self) -> tuple[keras.Model, list[WeightVectors]]:
        """The network before training, and the weight vectors of it that were permuted.

        Raises:
            WeightFileError: if no network starts so.
        """
        try:
            model, _ = self.initial.build()
            return model, weight_vectors.of(model, self.kinds)
        except (ValueError, TypeError) as error:
            raise WeightFileError(f"it starts as no network does: {error}") from None

    def build(self) -> keras.Model:
        """The trained network.

        Raises:
            WeightFileError: if this is none, or one that starts otherwise in this version.
        """
        model, vectors = self.start()
        permuted = {each.variable.path for each in vectors}
        others = [weight for weight in model.weights if weight.path not in permuted]
        if [(w.path, tuple(w.shape), "float32") for w in sorted(others, key=lambda w: w.path)] != [
            (path, array.shape, array.dtype.name) for path, array in sorted(self.others.items())
        ]:
            raise WeightFileError("its tensors are not those of its network.")
        for weight in others:
            weight.assign(self.others[weight.path])
        arranged = coding.decode(self.code, [each.matrix() for each in vectors])
        for each, matrix in zip(vectors, arranged, strict=True):
            shape = tuple(each.variable.shape)
            each.variable.assign(from_matrix(matrix, shape, each.neuron_axes))
        if _hash(_weights(model).items()) != self.weights_sha256:
            raise WeightFileError("its network does not start with the values that it was made of.")
        return model


def save_pretrained(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    initial: InitialNetwork,
    kinds: Sequence[Kind] = ("kernel",),
) -> None:
    """Write a network that is a permutation of its start, atomically.

    Args:
        model: the network, trained from `initial` and synchronised.
        path: the file, as a rule with the suffix ".safetensors".
        initial: how it started.
        kinds: the kinds of weight vectors that were permuted; the others are stored as they are.
            Default: kernels.

    Raises:
        ValueError: if the model is another one than that of `initial`, there is no such kind, or a
            weight vector of those kinds is no permutation of its start. Nothing is written then.

    Examples:
        >>> import tempfile
        >>> start = InitialNetwork(model="f1", seed=0, shared_value=0.08, keep=(0.6,))
        >>> trained, _ = start.build()
        >>> trained.set_weights([trained.get_weights()[0][::-1]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "f1.safetensors")
        ...     save_pretrained(trained, path, initial=start)
        ...     again = load_pretrained(path)
        >>> bool((again.get_weights()[0] == trained.get_weights()[0]).all())
        True
    """
    kinds = weight_vectors.check_kinds(kinds)
    start, _ = initial.build()
    weights, at_start = _weights(model), _weights(start)
    if _shapes(weights) != _shapes(at_start):
        raise ValueError(f"'{model.name}' is not the network that starts as {initial}.")
    if any(array.dtype != np.float32 for array in weights.values()):
        raise ValueError(f"The weights of '{model.name}' are not all float32.")
    vectors = weight_vectors.of(start, kinds)
    before = [each.matrix() for each in vectors]
    after = [to_matrix(weights.pop(each.variable.path), each.neuron_axes) for each in vectors]
    for each, first, last in zip(vectors, before, after, strict=True):
        if not is_permutation(first, last):
            raise ValueError(
                f"{each.path} is not a permutation of its start, {initial}. Only a synchronised "
                "network can be stored so."
            )
    tensors = {_CODE: np.frombuffer(coding.encode(after, before), np.uint8), **weights}
    header = {
        "format": _FORMAT,
        "initial": asdict(initial),
        "kinds": list(kinds),
        "weights_sha256": _hash(_weights(model).items()),
    }
    text = json.dumps(header | {"sha256": _content_hash(header, tensors)}, sort_keys=True)
    with files.replaced(path) as file:
        file.write(save(tensors, {_KEY: text}))


def load_pretrained(name_or_path: str | os.PathLike[str]) -> keras.Model:
    """A trained network, bit for bit.

    Args:
        name_or_path: a network that comes with the project by its name, such as "conv7-seed0", or
            the first of an experiment, "conv7"; `laperm_lib.paper.manifest` says where they are looked
            for. Or the path of a file that `save_pretrained` wrote: anything with a folder or the
            suffix ".safetensors".

    Returns:
        A built model from images, scaled as `laperm_lib.paper.networks.preprocess` does, to logits; where
        the record beside the file names other `pixels` than the network's own, with those. Its
        dtype policy is the one that it was trained with, its weights are float32.

    Raises:
        WeightFileError: if there is no such network or file, or the file is truncated, altered, of
            another kind, or not the one of the manifest.

    Examples:
        >>> load_pretrained("conv3.safetensors")
        Traceback (most recent call last):
        laperm_lib.errors.WeightFileError: conv3.safetensors: there is no such file.
    """
    path = locate(name_or_path)
    stored = read(path)
    try:
        return stored.build()
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def is_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant: anything with a folder or the suffix; the rest are names.

    Examples:
        >>> is_path("conv7-seed0"), is_path("conv7-seed0.safetensors"), is_path("runs/conv7")
        (False, True, True)
    """
    text = os.fspath(name_or_path)
    return text.endswith(SUFFIX) or Path(text).name != text


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a network; that of a name is compared with the manifest.

    Args:
        name_or_path: as for `load_pretrained`.

    Raises:
        WeightFileError: if there is no network of that name, or its file is not the one of the
            manifest.
    """
    if is_path(name_or_path):
        return Path(name_or_path)
    entry = manifest.find(os.fspath(name_or_path))
    path = manifest.default_folder() / entry.file
    check(path, entry)
    return path


def check(path: Path, entry: manifest.Entry) -> None:
    """Compare a file with what the manifest says of it: its size, then its hash.

    Raises:
        WeightFileError: if it is not that file, or there is none.
    """
    try:
        if path.stat().st_size == entry.size:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                    return
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from None
    raise WeightFileError(f"{path} is damaged: it is not the file that the manifest tells of.")


def read(path: str | os.PathLike[str]) -> Stored:
    """Read what a file holds, and compare its hash.

    Args:
        path: a file that `save_pretrained` wrote.

    Raises:
        WeightFileError: if there is no such file, or it is truncated, altered or of another kind.
    """
    path = os.fspath(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The last four are raised for tensors of types that NumPy does not have.
        raise WeightFileError(f"{path} is damaged or no safetensors file: {error}") from None
    if _KEY not in metadata or _CODE not in tensors:
        raise WeightFileError(f"{path} holds no network of this library.")
    try:
        header = json.loads(metadata[_KEY])
        if header["format"] != _FORMAT:
            raise WeightFileError(f"{path} is of another version of this library.")
        if header.pop("sha256") != _content_hash(header, tensors):
            raise WeightFileError(f"{path} is damaged: its hash is not that of what it holds.")
        values = header["initial"]
        initial = InitialNetwork(**values | {"keep": tuple(values["keep"])})
        kinds, weights_sha256 = tuple(header["kinds"]), header["weights_sha256"]
    except WeightFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightFileError(f"{path} is damaged: {error!r}") from None
    code = tensors.pop(_CODE).tobytes()
    return Stored(initial, kinds, code, tensors, weights_sha256)


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights by path."""
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def _shapes(weights: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (array.shape, array.dtype.name) for path, array in weights.items()}


def _content_hash(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    return _hash(sorted(tensors.items()), json.dumps(header, sort_keys=True))


def _hash(arrays: Iterable[tuple[str, np.ndarray]], text: str = "") -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of arrays."""
    sha256 = hashlib.sha256(f"{text}\n".encode())
    for name, array in arrays:
        sha256.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
