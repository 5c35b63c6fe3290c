"""Trained networks as small files: the permutation that training found, beside a base.

A network that was trained or fine-tuned by permuting is its base, the weights it started from, and
an arrangement of them. The file, in the safetensors format, holds the arrangement near the fewest
bits that can tell it (`laperm_lib.coding`), the weights that are no permutation of the base's, and
hashes: of its content, of the base, and of the weights that it stands for.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras
import numpy as np

from laperm_lib import coding, files, weight_vectors
from laperm_lib.errors import WeightFileError, in_short
from laperm_lib.permutation import from_matrix, is_permutation, to_matrix

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")

CODE = "arrangement"
"""The tensor that holds it."""

_KEY = "laperm_lib"  # of the metadata
_FORMAT = 1
_LARGEST_HEADER = 2**20  # bytes; that of resnet50 takes a fortieth


def save_permutation(
    model: keras.Model, path: str | os.PathLike[str], base: keras.Model | str | os.PathLike[str]
) -> None:
    """Write what a network is beside its base, atomically.

    A weight that is the same in both costs nothing, one whose vectors are permutations of the
    base's costs its arrangement, at most log2(d!) / d bits per weight for vectors of d values, and
    any other is stored whole; a kernel among these is logged as a warning.

    Args:
        model: the trained network, synchronised.
        path: the file, by custom with the suffix ".safetensors".
        base: the same network as it was before, for instance built again after
            `keras.utils.set_random_seed`; or the path of its ".keras" file.

    Raises:
        ValueError: if the base is another network, a weight is not finite, or no kernel is a
            permutation of the base's.
        ImportError: if safetensors is not installed.
        OSError: if the file cannot be written.

    Examples:
        >>> import tempfile
        >>> def network():
        ...     keras.utils.set_random_seed(0)
        ...     return keras.Sequential([keras.Input((50,)), keras.layers.Dense(20)])
        >>> model = network()
        >>> _ = model.layers[0].kernel.assign(model.layers[0].kernel[::-1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "reversed.safetensors")
        ...     save_permutation(model, path, network())
        ...     again = load_permutation(path, network())
        >>> all(map(np.array_equal, again.get_weights(), model.get_weights()))
        True
    """
    base = _model(base)
    weights, before = values(model.weights), values(base.weights)
    if shapes(weights) != shapes(before):
        raise ValueError(f"'{model.name}' and its base are not the same network.")
    if not are_finite(weights):
        raise ValueError(f"A weight of '{model.name}' is NaN or infinite.")
    changed = [n for n, value in weights.items() if value.tobytes() != before[n].tobytes()]
    vectors = _vectors(model)
    pairs = {
        n: tuple(to_matrix(side[n], vectors[n].neuron_axes) for side in (weights, before))
        for n in changed
        if n in vectors
    }
    pairs = {n: pair for n, pair in pairs.items() if is_permutation(*pair)}
    whole = {n: weights[n] for n in changed if n not in pairs}
    kernels = [n for n, each in vectors.items() if each.kind == "kernel"]
    if whole and all(n in whole for n in kernels):
        raise ValueError(
            f"No kernel of '{model.name}' is a permutation of its base's: only a synchronised "
            "network can be stored so, beside the weights that it started from."
        )
    for n in kernels:
        if n in whole:
            _log.warning("%s is no permutation of its base's and is stored whole.", vectors[n].path)
    after, initial = zip(*pairs.values(), strict=True) if pairs else ((), ())
    header = {
        "permuted": list(pairs),
        "base_sha256": sha256(before.items()),
        "weights_sha256": sha256(weights.items()),
    }
    code = np.frombuffer(coding.encode(after, initial), np.uint8)
    write(path, header, {CODE: code, **whole})


def load_permutation(
    path: str | os.PathLike[str], base: keras.Model | str | os.PathLike[str]
) -> keras.Model:
    """A network that `save_permutation` has stored, bit for bit.

    Args:
        path: the file.
        base: its base: a model, whose weights become the stored network's, or a ".keras" file.

    Returns:
        The model; that of `base`, if it was given as one.

    Raises:
        WeightFileError: if there is no such file, it is damaged, or the base is another one. No
            weight is changed then.
        ImportError: if safetensors is not installed.

    Examples:
        `save_permutation` has one.
    """
    model = _model(base)
    header, tensors = read(path, lambda header: {key: header[key] for key in _KEYS})
    weights = values(model.weights)
    if sha256(weights.items()) != header["base_sha256"]:
        raise WeightFileError(f"{os.fspath(path)}: it was stored beside another base.")
    vectors = _vectors(model)
    permuted = {n: vectors[n] for n in header["permuted"]}
    initial = [to_matrix(weights[n], each.neuron_axes) for n, each in permuted.items()]
    arranged = coding.decode(tensors.pop(CODE).tobytes(), initial)
    for (n, each), matrix in zip(permuted.items(), arranged, strict=True):
        weights[n] = from_matrix(matrix, weights[n].shape, each.neuron_axes)
    weights |= tensors
    if sha256(weights.items()) != header["weights_sha256"]:
        raise WeightFileError(f"{os.fspath(path)}: its weights are not those that were stored.")
    model.set_weights(list(weights.values()))
    return model


_KEYS = ("permuted", "base_sha256", "weights_sha256")


def _model(given: keras.Model | str | os.PathLike[str]) -> keras.Model:
    return given if isinstance(given, keras.Model) else keras.models.load_model(given)


def _vectors(model: keras.Model) -> dict[str, weight_vectors.WeightVectors]:
    """The weight vectors by the number of their variable, whose path depends on the process."""
    numbers = {id(weight): str(n) for n, weight in enumerate(model.weights)}
    found = weight_vectors.of(model, weight_vectors.KINDS)
    return {numbers[id(each.variable)]: each for each in found}


def values(weights: Iterable[Any]) -> dict[str, np.ndarray]:
    """Their values by number."""
    return {str(n): keras.ops.convert_to_numpy(weight) for n, weight in enumerate(weights)}


def are_finite(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether all of them are."""
    return all(np.isfinite(array).all() for array in weights.values())


def shapes(weights: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types, by name."""
    return {name: (array.shape, array.dtype.name) for name, array in weights.items()}


def sha256(arrays: Iterable[tuple[str, np.ndarray]], text: str = "") -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of arrays."""
    digest = hashlib.sha256(f"{text}\n".encode())
    for name, array in arrays:
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# -- the file ----------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write a safetensors file with a header and a hash of everything, atomically."""
    header = {"format": _FORMAT, **header}
    text = json.dumps(header | {"sha256": content_hash(header, tensors)}, sort_keys=True)
    content = _safetensors().numpy.save(dict(tensors), {_KEY: text})
    with files.replaced(path) as file:
        file.write(content)


def read(
    path: str | os.PathLike[str], parse: Callable[[dict[str, Any]], _Read]
) -> tuple[_Read, dict[str, np.ndarray]]:
    """What `parse` makes of the header, and the tensors; or a WeightFileError."""
    path, safetensors = os.fspath(path), _safetensors()
    try:
        with open(path, "rb") as start:
            size = int.from_bytes(start.read(8), "little")
        if size > _LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes.")
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except (
        *(OSError, safetensors.SafetensorError, ValueError),
        *(TypeError, KeyError, AttributeError),  # for tensors of types that NumPy does not have
    ) as error:
        raise WeightFileError(
            f"{path} is damaged or no safetensors file: {in_short(error)}"
        ) from None
    if _KEY not in metadata or CODE not in tensors:
        raise WeightFileError(f"{path} holds no network of this library.")
    try:
        header = json.loads(metadata[_KEY])
        if header["format"] != _FORMAT:
            raise WeightFileError(f"{path} is of another version of this library.")
        if header.pop("sha256") != content_hash(header, tensors):
            raise WeightFileError(f"{path} is damaged: its hash is not that of its content.")
        return parse(header), tensors
    except WeightFileError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise WeightFileError(f"{path} is damaged: {in_short(error)}") from None


def content_hash(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """The hash of a file's content."""
    return sha256(sorted(tensors.items()), json.dumps(header, sort_keys=True))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError(
            'safetensors is not installed. Install it with: pip install "laperm-lib[paper]"',
            name="safetensors",
        ) from error
    return safetensors
