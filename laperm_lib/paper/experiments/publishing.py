"""Networks on their way from a run folder to `pretrained`."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras

from laperm_lib.errors import LaPermError
from laperm_lib.paper import manifest, pretrained
from laperm_lib.paper.experiments import records, verification
from laperm_lib.paper.experiments.folders import NETWORK, RECORD, read_network, write_outcome
from laperm_lib.paper.experiments.outcome import Run
from laperm_lib.paper.experiments.training import initial_network
from laperm_lib.paper.manifest import Entry
from laperm_lib.weight_vectors import Kind


def publish(
    folder: str | os.PathLike[str], destination: str | os.PathLike[str] | None = None
) -> Entry:
    """Store the network of a finished run, with its record and an entry in the manifest.

    It has the name of the run folder. What was there of a network with that name is replaced. The
    network is read back and compared before the manifest tells of it.

    Args:
        folder: the run folder, with its `record.json` and `network.npz`.
        destination: the folder of the manifest. Default: `laperm_lib.paper.manifest.default_folder()`.

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
    records.save([record], destination / f"{name}.json")
    content = file.read_bytes()
    entry = Entry(
        name=name,
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        hdf5_size=_hdf5_size(again),
        **verification.arrangement(stored),
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


def publish_first(name: str, runs: Iterable[Run], destination: str | os.PathLike[str]) -> Entry:
    """Write the records of some runs, and store the network of the first as `publish` does.

    Args:
        name: of the experiment; the file of the records is "NAME.json".
        runs: what came out, at least one.
        destination: the folder of the manifest.

    Returns:
        The entry of the manifest.

    Raises:
        LaPermError: if that network is no permutation of its start.
        ValueError: if there are no runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        # One network at a time is held.
        written = [write_outcome(Path(folder, f"{name}-seed{run.seed}"), name, run) for run in runs]
        if not written:
            raise ValueError(f"There are no runs of {name}.")
        records.save(written, Path(destination, f"{name}.json"))
        return publish(Path(folder, f"{name}-seed{written[0].seed}"), destination)


def _hdf5_size(model: keras.Model) -> int:
    """The bytes of the network as Keras stores it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.weights.h5")
        model.save_weights(path)
        return path.stat().st_size
