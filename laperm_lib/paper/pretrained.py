"""Trained networks as small files: how they start, and the arrangement that training found.

A network trained by permuting is its initial weights, which a seed gives, and a permutation. The
file, in the safetensors format, holds the permutation near the fewest bits that can tell it
(`laperm_lib.coding`), the description of the initial network, the weights that were not permuted,
and hashes of its content and of the weights it stands for. Signs and masks are stored likewise.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from laperm_lib import storage, weight_vectors
from laperm_lib.errors import WeightFileError, in_short
from laperm_lib.paper import manifest
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.permutation import from_matrix, to_matrix
from laperm_lib.synchronisation.projections import SETS, Permutations, Projection
from laperm_lib.weight_vectors import Kind, WeightVectors

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Stored:
    """What a file holds of a network."""

    network: PaperNetwork  # before training
    seed: int
    kinds: tuple[Kind, ...]  # of the variables that were permuted
    projection: Projection  # onto the set that they are in
    code: bytes  # which elements of it they are, as `projection.encode` gives it
    others: dict[str, np.ndarray]  # the other weights, by path
    weights_sha256: str  # of all weights of the trained network

    def start(self) -> tuple[keras.Model, list[WeightVectors]]:
        """The network before training, and the weight vectors of it that were permuted."""
        try:
            model, _ = self.network.build(self.seed)
            return model, weight_vectors.of(model, self.kinds)
        except (ValueError, TypeError) as error:
            raise WeightFileError(
                f"its initial network cannot be built: {in_short(error)}"
            ) from None

    def build(self) -> keras.Model:
        """The trained network, whose weights are compared with their hash."""
        model, vectors = self.start()
        permuted = {each.variable.path for each in vectors}
        others = [weight for weight in model.weights if weight.path not in permuted]
        if storage.shapes(_values(others)) != storage.shapes(self.others):
            raise WeightFileError("its tensors are not those of its network.")
        if not storage.are_finite(self.others):
            raise WeightFileError("one of its weights is NaN or infinite.")
        for weight in others:
            weight.assign(self.others[weight.path])
        arranged = self.projection.decode(self.code, [each.matrix() for each in vectors])
        for each, matrix in zip(vectors, arranged, strict=True):
            shape = tuple(each.variable.shape)
            each.variable.assign(from_matrix(matrix, shape, each.neuron_axes))
        if storage.sha256(_values(model.weights).items()) != self.weights_sha256:
            raise WeightFileError("its network does not have the initial values it was made from.")
        return model

    def sizes(self) -> dict[str, Any]:
        """What the manifest says of the arrangement."""
        start = [each.matrix() for each in self.start()[1]]
        weights = sum(matrix.size for matrix in start)
        return {
            "permuted_weights": weights,
            "bits_per_weight": 8 * len(self.code) / weights,
            "bound_per_weight": self.projection.bound_bits(start) / weights,
        }


def save_pretrained(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    network: PaperNetwork,
    seed: int,
    kinds: Sequence[Kind] = ("kernel",),
    projection: Projection = SETS["permutation"],
) -> None:
    """Write a network that is a permutation of its initial weights, atomically.

    Args:
        model: the trained and synchronised network, float32.
        path: the file.
        network: the description of the network before training.
        seed: its seed.
        kinds: the kinds of variables that were permuted. Default: kernels.
        projection: the set that they are in, an optimizer's `projection`. Default: permutations.

    Raises:
        ValueError: if the model is another network, has weights of another type, or is not a
            permutation of its initial weights (or not in the set), or a weight is not finite.
        OSError: if the file cannot be written.

    Examples:
        >>> import tempfile
        >>> f1 = PaperNetwork(model="f1", shared_value=0.08, keep=(0.6,))
        >>> model, _ = f1.build(seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "f1.safetensors")
        ...     save_pretrained(model, path, network=f1, seed=0)
        ...     load_pretrained(path).count_params()
        7840
    """
    kinds = weight_vectors.check_kinds(kinds)
    start, _ = network.build(seed)
    weights, at_start = _values(model.weights), _values(start.weights)
    if storage.shapes(weights) != storage.shapes(at_start):
        raise ValueError(f"'{model.name}' is not the network that starts as {network}.")
    vectors = weight_vectors.of(start, kinds)
    before = [each.matrix() for each in vectors]
    after = [to_matrix(weights.pop(each.variable.path), each.neuron_axes) for each in vectors]
    for each, first, last in zip(vectors, before, after, strict=True):
        if not projection.allows(last, first):
            raise ValueError(
                f"{each.path} is not a {projection.name} of its initial values, {network}, "
                f"seed {seed}. Only a synchronised network can be stored so."
            )
    if not storage.are_finite(weights):
        raise ValueError(f"A weight of '{model.name}' is NaN or infinite.")
    tensors = {storage.CODE: np.frombuffer(projection.encode(after, before), np.uint8), **weights}
    header = {
        "initial": asdict(network) | {"seed": seed},
        "kinds": list(kinds),
        "set": projection.name,
        "weights_sha256": storage.sha256(_values(model.weights).items()),
    }
    storage.write(path, header, tensors)


def load_pretrained(name_or_path: str | os.PathLike[str]) -> keras.Model:
    """A trained network, bit for bit.

    Args:
        name_or_path: a network that comes with the project by its name, such as "conv7-seed0", or
            the first of an experiment, "conv7". Or the path of a file that `save_pretrained`
            wrote: anything with a folder or the suffix ".safetensors".

    Returns:
        A built model from images, scaled as `networks.preprocess` does, to logits; where the record
        beside the file names other `pixels`, with those. Its dtype policy is the one that it was
        trained with, its weights are float32.

    Raises:
        WeightFileError: if there is no such network or file, or it is damaged.

    Examples:
        >>> load_pretrained("f1").count_params()
        7840
    """
    path = locate(name_or_path)
    stored = read(path)
    try:
        return stored.build()
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def is_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant: anything with a folder or the suffix; the rest are names."""
    text = os.fspath(name_or_path)
    return text.endswith(SUFFIX) or Path(text).name != text


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a network; that of a name is compared with the manifest."""
    if is_path(name_or_path):
        return Path(name_or_path)
    return manifest.locate(manifest.find(os.fspath(name_or_path)))


def read(path: str | os.PathLike[str]) -> Stored:
    """Read what a file holds, and compare its hash; else a WeightFileError."""

    def parse(header: dict[str, Any]) -> dict[str, Any]:
        initial = dict(header["initial"])
        seed, keep = initial.pop("seed"), tuple(initial.pop("keep"))
        return {
            "network": PaperNetwork(**initial, keep=keep),
            "seed": seed,
            "kinds": tuple(header["kinds"]),
            "projection": SETS[header.get("set", Permutations.name)],
            "weights_sha256": header["weights_sha256"],
        }

    header, tensors = storage.read(path, parse)
    return Stored(**header, code=tensors.pop(storage.CODE).tobytes(), others=tensors)


def _values(weights: Iterable[Any]) -> dict[str, np.ndarray]:
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in weights}
