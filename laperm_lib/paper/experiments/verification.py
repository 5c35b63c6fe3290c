"""The proof of what the manifest says of a network: each vector a permutation, the accuracies so.

References:
    Qiu and Suda, NeurIPS 2020, section 5: the accuracies that the networks are set beside.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from laperm_lib import coding, permutation
from laperm_lib.errors import WeightFileError
from laperm_lib.paper import datasets, manifest, pretrained
from laperm_lib.paper.experiments import evaluation, records
from laperm_lib.paper.experiments.records import Record
from laperm_lib.paper.experiments.training import initial_network
from laperm_lib.paper.manifest import Entry
from laperm_lib.paper.pretrained import Stored

TOLERANCE = 5e-4
"""By how much a measured accuracy may differ from the stated one. Weights are the same bits
everywhere, sums of products are not: they tip an image whose two largest logits nearly tie."""


@dataclass(frozen=True)
class Proof:
    """What is shown of the weight vectors of one variable.

    Args:
        path: layer and variable, such as "dense/kernel".
        vectors: how many there are.
        length: weights in each.
        is_permutation: whether each holds, bit for bit, the values that it starts with.
    """

    path: str
    vectors: int
    length: int
    is_permutation: bool


@dataclass(frozen=True)
class Verification:
    """What was found of a network, beside what the manifest says.

    Args:
        entry: what the manifest says.
        contradictions: where the network's file or its record says something else, in words.
        proofs: an entry per permuted variable.
        data_fingerprint: of the data that it was measured on.
        accuracy: on the test images, 0 to 1.
    """

    entry: Entry
    contradictions: tuple[str, ...]
    proofs: tuple[Proof, ...]
    data_fingerprint: str
    accuracy: float

    @property
    def other_images(self) -> float | None:
        """The share of the test images that may be others than those the manifest's network saw.

        0 for the same data, more where one of the two is a known copy of the other, of which some
        images are not as they were published; None for data of which nothing is known.
        """
        both = self.data_fingerprint, self.entry.data_fingerprint
        if both[0] == both[1]:
            return 0.0
        known = [copy.test for copy in map(datasets.COPIES.get, both) if copy is not None]
        return sum(known) if known else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, in words; nothing if the network is what is said of it."""
        found = [
            *self.contradictions,
            *(
                f"{proof.path} is not a permutation of its start"
                for proof in self.proofs
                if not proof.is_permutation
            ),
        ]
        if self.other_images is None:
            found.append(f"the data are not the {self.entry.dataset} that it was measured on")
        tolerance = TOLERANCE + (self.other_images or 0)
        if not abs(self.accuracy - self.entry.final) <= tolerance:
            found.append(f"the accuracy is {self.accuracy:.4f}, not {self.entry.final:.4f}")
        return tuple(found)


def verify(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    data_dir: str | None = None,
) -> Verification:
    """Prove that a network is a permutation of its start, and measure its accuracy.

    The file is compared with its hashes, and manifest, record and file with each other. The start
    is built from the seed, and each weight vector of the network compared with it as a multiset of
    values.

    Args:
        name: the network, as in the manifest.
        folder: the folder of the manifest. Default: `laperm_lib.paper.manifest.default_folder()`.
        data_dir: where the dataset lies. Default: as `laperm_lib.paper.datasets.load`.

    Returns:
        The `Verification`; its `problems` are empty if all that is said of the network holds.

    Raises:
        WeightFileError: if there is no such network, or its file is not what it was.
        LaPermError: if its record is missing or damaged.
        DatasetUnavailableError: if the data cannot be had.
    """
    folder = Path(folder or manifest.default_folder())
    entry = manifest.find(name, folder)
    path = folder / entry.file
    pretrained.check(path, entry)
    stored = pretrained.read(path)
    try:
        model, (_, before) = stored.build(), stored.start()
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    weights = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    proofs = []
    for each in before:
        first = each.matrix()
        last = permutation.to_matrix(weights[each.variable.path], each.neuron_axes)
        vectors, length = first.shape
        same = permutation.is_permutation(first, last)
        proofs.append(Proof(each.path, vectors, length, same))
    record = records.load_one(folder / f"{entry.name}.json")
    images = evaluation.images_for(record.hyperparameters, data_dir)
    accuracy = evaluation.accuracy(model, images.x_test, images.y_test)
    contradictions = tuple(_contradictions(entry, record, stored))
    return Verification(entry, contradictions, tuple(proofs), images.fingerprint, accuracy)


def arrangement(stored: Stored) -> dict[str, Any]:
    """What the manifest says of a network's arrangement, from the network's file.

    Args:
        stored: what the file holds.

    Returns:
        `permuted_weights`, `bits_per_weight` and `bound_per_weight`, as for
        `laperm_lib.paper.manifest.Entry`.
    """
    start = [each.matrix() for each in stored.start()[1]]
    weights = sum(matrix.size for matrix in start)
    return {
        "permuted_weights": weights,
        "bits_per_weight": 8 * len(stored.code) / weights,
        "bound_per_weight": coding.bound_bits(start) / weights,
    }


_IN_RECORD = (
    *("experiment", "seed", "final", "selected", "published_protocol"),
    *("data_fingerprint", "seconds", "environment"),
)


def _contradictions(entry: Entry, record: Record, stored: Stored) -> Iterator[str]:
    """Where the manifest and the record, or the file and one of them, differ."""
    expected = {name: getattr(record, name) for name in _IN_RECORD} | arrangement(stored)
    for name, value in expected.items():
        said = getattr(entry, name)
        numbers = isinstance(said, float) and isinstance(value, float)
        if said != value and not (numbers and math.isclose(said, value)):
            yield f"{name} is {value}, not {said}"
    if stored.initial != initial_network(record.hyperparameters, record.seed):
        yield "the file's network starts otherwise than the settings and the seed of its record say"
