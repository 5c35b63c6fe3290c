"""Networks on their way from a run folder to `pretrained`, and the proof of what is said of them.

References:
    Qiu and Suda, NeurIPS 2020, section 5: the accuracies that the networks are set beside.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras

from laperm_lib import coding, manifest, permutation, pretrained
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.experiments import evaluation, records
from laperm_lib.experiments.folders import NETWORK, RECORD, read_network
from laperm_lib.experiments.training import initial_network
from laperm_lib.manifest import Entry
from laperm_lib.weight_vectors import Kind

TOLERANCE = 5e-4
"""By how much a measured accuracy may differ from the stated one. Weights are the same bits
everywhere, sums of products are not: they tip an image whose two largest logits nearly tie."""


def publish(
    folder: str | os.PathLike[str], destination: str | os.PathLike[str] | None = None
) -> Entry:
    """Store the network of a finished run, with its record and an entry in the manifest.

    It has the name of the run folder. What was there of a network with that name is replaced. The
    network is read back and compared before the manifest tells of it.

    Args:
        folder: the run folder, with its `record.json` and `network.npz`.
        destination: the folder of the manifest. Default: `laperm_lib.manifest.default_folder()`.

    Returns:
        The entry of the manifest.

    Raises:
        LaPermError: if the run is not finished, its files are damaged, or its network is no
            permutation of its start.
    """
    path = Path(folder)
    destination = Path(destination or manifest.default_folder())
    record = records.load_one(path / RECORD)
    settings = record.hyperparameters
    if settings.sync_period is None:
        raise LaPermError(f"{path}: {record.experiment} was not trained by permuting.")
    initial = initial_network(settings, record.seed)
    model = read_network(path / NETWORK, initial)
    name = path.resolve().name
    file = destination / f"{name}{pretrained.SUFFIX}"
    kinds: tuple[Kind, ...] = ("kernel", "bias") if settings.permute_biases else ("kernel",)
    try:
        pretrained.save_pretrained(model, file, initial=initial, kinds=kinds)
    except ValueError as error:
        raise LaPermError(f"{path}: {error}") from None
    stored = pretrained.read(file)
    again = stored.build()  # compares the weights with the hash of those that were trained
    start = [each.matrix() for each in stored.start()[1]]
    weights = sum(matrix.size for matrix in start)
    records.save([record], destination / f"{name}.json")
    content = file.read_bytes()
    entry = Entry(
        name=name,
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        hdf5_size=_hdf5_size(again),
        permuted_weights=weights,
        bits_per_weight=8 * len(stored.code) / weights,
        bound_per_weight=coding.bound_bits(start) / weights,
        experiment=record.experiment,
        seed=record.seed,
        final=record.final,
        selected=record.selected,
        published_protocol=record.published_protocol,
        dataset=settings.dataset,
        data_fingerprint=record.data_fingerprint,
        seconds=record.seconds,
        environment=record.environment,
    )
    manifest.add(entry, destination)
    return entry


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
        proofs: an entry per permuted variable.
        data_fingerprint: of the data that it was measured on.
        accuracy: on the test images, 0 to 1.
    """

    entry: Entry
    proofs: tuple[Proof, ...]
    data_fingerprint: str
    accuracy: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, in words; nothing if the network is what is said of it."""
        found = [
            f"{proof.path} is not a permutation of its start"
            for proof in self.proofs
            if not proof.is_permutation
        ]
        weights = sum(proof.vectors * proof.length for proof in self.proofs)
        if weights != self.entry.permuted_weights:
            found.append(f"{weights} weights are permuted, not {self.entry.permuted_weights}")
        if self.data_fingerprint != self.entry.data_fingerprint:
            found.append(f"the data are not the {self.entry.dataset} that it was measured on")
        if not abs(self.accuracy - self.entry.final) <= TOLERANCE:
            found.append(f"the accuracy is {self.accuracy:.4f}, not {self.entry.final:.4f}")
        return tuple(found)


def verify(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    data_dir: str | None = None,
) -> Verification:
    """Prove that a network is a permutation of its start, and measure its accuracy.

    The file is compared with its hashes. The start is built from the seed, and each weight vector
    of the network compared with it as a multiset of values.

    Args:
        name: the network, as in the manifest.
        folder: the folder of the manifest. Default: `laperm_lib.manifest.default_folder()`.
        data_dir: where the dataset lies. Default: as `laperm_lib.datasets.load`.

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
    return Verification(entry, tuple(proofs), images.fingerprint, accuracy)


def _hdf5_size(model: keras.Model) -> int:
    """The bytes of the network as Keras stores it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.weights.h5")
        model.save_weights(path)
        return path.stat().st_size
