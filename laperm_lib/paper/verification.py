"""Networks on their way into `pretrained`, and the proof of what is said of those that are there.

References:
    Qiu and Suda, NeurIPS 2020, section 5: the accuracies that the networks are set beside.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from laperm_lib import weight_vectors
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import datasets, evaluation, manifest, pretrained, records, runs
from laperm_lib.paper.manifest import Entry
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.pretrained import Stored
from laperm_lib.paper.records import Record
from laperm_lib.synchronisation.projections import Permutations

TOLERANCE = 5e-4
"""By how much a measured accuracy may differ from the stated one. Weights are the same bits
everywhere, sums of products are not: they tip an image whose two largest logits nearly tie."""


def publish(
    folder: str | os.PathLike[str], destination: str | os.PathLike[str] | None = None
) -> Entry:
    """Store the network of a finished run, with its record and an entry in the manifest.

    Args:
        folder: the run folder.
        destination: where networks are. Default: `manifest.default_folder()`.

    Raises:
        LaPermError: if the run is not finished, does not permute, or its network is not a
            permutation of its initial weights.

    Examples:
        >>> from laperm_lib.paper.settings import quick
        >>> task = runs.Task("f1", quick("f1").replace(epochs=2), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = runs.RunFolder(folder, task)
        ...     record = run.run()
        ...     entry = publish(run.path, folder)
        ...     verify(entry.name, folder).problems
        ()
    """
    path = Path(folder)
    destination = Path(destination or manifest.default_folder())
    record = runs.read(path)
    network, method = record.settings.network, record.settings.method
    if method.projection is None or not isinstance(network, PaperNetwork):
        raise LaPermError(f"{path}: {record.experiment} was not trained by permuting.")
    name = path.resolve().name
    file = destination / f"{name}{pretrained.SUFFIX}"
    try:
        pretrained.save_pretrained(
            record.model,
            file,
            network=network,
            seed=record.seed,
            kinds=method.permuted,
            projection=method.projection,
        )
    except ValueError as error:
        raise LaPermError(f"{path}: {error}") from None
    stored = pretrained.read(file)
    stored.build()  # compares the weights with the hash of those that were trained
    records.save([record], destination / f"{name}.json")
    content = file.read_bytes()
    entry = Entry(
        name=name,
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        experiment=record.experiment,
        **stored.sizes(),
    )
    manifest.add(entry, destination)
    return entry


def publish_first(name: str, made: Iterable[Record], destination: str | os.PathLike[str]) -> Entry:
    """Write the records of some runs, and store the network of the first as `publish` does."""
    written: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for record in made:
            if not written:
                runs.write(Path(folder, f"{name}-seed{record.seed}"), record)
            written.append(replace(record, model=None))  # one network at a time is held
        if not written:
            raise ValueError(f"There are no runs of {name}.")
        records.save(written, Path(destination, f"{name}.json"))
        return publish(Path(folder, f"{name}-seed{written[0].seed}"), destination)


@dataclass(frozen=True)
class Proof:
    """Whether each of the `vectors` of a variable is in the set of its initial values."""

    path: str
    vectors: int
    holds: bool  # bit for bit


@dataclass(frozen=True)
class Verification:
    """What was found of a network, beside what is said of it.

    Args:
        record: what is said of its training.
        contradictions: where manifest, file and record differ, in words.
        proofs: one for each permuted variable.
        data_fingerprint: of the data that it was measured on.
        accuracy: on the test images, 0 to 1.
    """

    record: Record
    contradictions: tuple[str, ...]
    proofs: tuple[Proof, ...]
    data_fingerprint: str
    accuracy: float

    @property
    def other_images(self) -> float | None:
        """The share of the test images that may be others than those of the record."""
        both = self.data_fingerprint, self.record.data_fingerprint
        if both[0] == both[1]:
            return 0.0
        known = [copy.test for copy in map(datasets.COPIES.get, both) if copy is not None]
        return sum(known) if known else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; nothing if the network is what is said of it."""
        wrong = [proof.path for proof in self.proofs if not proof.holds]
        projection = self.record.settings.method.projection or Permutations()
        found = [f"{path} is not a {projection.name} of its initial values" for path in wrong]
        found = [*self.contradictions, *found]
        if self.other_images is None:
            dataset = self.record.settings.data.dataset
            found.append(f"the data are not the {dataset} that it was measured on")
        tolerance = TOLERANCE + (self.other_images or 0)
        said = self.record.final if self.record.final is not None else math.nan
        if not abs(self.accuracy - said) <= tolerance:
            found.append(f"the accuracy is {self.accuracy:.4f}, not {said:.4f}")
        return tuple(found)


def verify(
    name: str, folder: str | os.PathLike[str] | None = None, *, data_dir: str | None = None
) -> Verification:
    """Prove that a network is a permutation of its initial weights, and measure its accuracy.

    Args:
        name: its name, or that of its experiment.
        folder: where networks are. Default: `manifest.default_folder()`.
        data_dir: where the dataset lies. Default: as `datasets.load`.

    Raises:
        LaPermError: if file or record are missing or damaged, or the data cannot be had.

    Examples:
        `publish` shows a network that is published and verified.
    """
    folder = Path(folder or manifest.default_folder())
    entry = manifest.find(name, folder)
    path = manifest.locate(entry, folder)
    stored = pretrained.read(path)
    try:
        model, (_, before) = stored.build(), stored.start()
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    proofs, projection = [], stored.projection
    for first, last in zip(before, weight_vectors.of(model, stored.kinds), strict=True):
        holds = projection.allows(last.matrix(), first.matrix())
        proofs.append(Proof(first.path, len(first.matrix()), holds))
    record = records.load_one(folder / f"{entry.name}.json")
    images = evaluation.images_for(record.settings, data_dir)
    return Verification(
        record,
        tuple(_contradictions(entry, record, stored)),
        tuple(proofs),
        images.fingerprint,
        evaluation.accuracy(model, images.x_test, images.y_test),
    )


def _contradictions(entry: Entry, record: Record, stored: Stored) -> Iterator[str]:
    """Where the manifest and the record, or the file and one of them, differ."""
    for name, value in ({"experiment": record.experiment} | stored.sizes()).items():
        listed = getattr(entry, name)
        same = math.isclose(listed, value) if isinstance(value, float) else listed == value
        if not same:
            yield f"{name} is {value}, not {listed}"
    method = record.settings.method
    said = record.settings.network, record.seed, method.permuted, type(method.projection)
    if (stored.network, stored.seed, stored.kinds, type(stored.projection)) != said:
        yield "the file's network, seed or kind of permuted weights is not what its record says"
    if said[-1] is Permutations and not record.is_permutation:
        yield "its record says that it is not a permutation"
