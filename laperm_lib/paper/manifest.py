"""The list of the networks that come with the project, and where it is.

The networks are in the folder `pretrained` of the repository, with a `manifest.json` that says what
each is. A checkout of the repository finds them by itself. The installed package does not bring
them along, as they are larger than it by far; there the environment variable LAPERM_PRETRAINED_DIR
names a folder that holds them.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laperm_lib import files
from laperm_lib.errors import WeightFileError

PRETRAINED_DIR = "LAPERM_PRETRAINED_DIR"
"""The environment variable with the folder of the networks and their manifest."""

_FILE = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the manifest says of a network.

    Accuracies are shares of the test images, 0 to 1.

    Args:
        name: its name for `laperm_lib.paper.load_pretrained`, that of its run folder.
        file: its file, beside the manifest.
        sha256: of the file, in hexadecimal.
        size: of the file, in bytes.
        hdf5_size: of the network as Keras's `.weights.h5`, float32, in bytes.
        permuted_weights: how many weights the file holds as an arrangement alone.
        bits_per_weight: the bits of the arrangement by their number.
        bound_per_weight: the same for the binary logarithm of the number of arrangements.
        experiment: the experiment that it is from.
        seed: its seed.
        final: accuracy of this network, which training ended with.
        selected: accuracy of the synchronised network that was best on the training images held
            out; None where none were.
        published_protocol: the best accuracy at any evaluation, picked on the test images.
        dataset: the name of the data.
        data_fingerprint: their SHA-256, as `laperm_lib.paper.datasets.load` gives it.
        seconds: wall time of training and evaluating, as in its record.
        environment: versions, hardware and code revision of the training, as in its record.
    """

    name: str
    file: str
    sha256: str
    size: int
    hdf5_size: int
    permuted_weights: int
    bits_per_weight: float
    bound_per_weight: float
    experiment: str
    seed: int
    final: float
    selected: float | None
    published_protocol: float
    dataset: str
    data_fingerprint: str
    seconds: float
    environment: dict[str, str]


def default_folder() -> Path:
    """Where the networks are: `$LAPERM_PRETRAINED_DIR`, or `pretrained` beside the package."""
    folder = os.environ.get(PRETRAINED_DIR)
    return Path(folder) if folder else Path(__file__).resolve().parents[2] / "pretrained"


def read(folder: str | os.PathLike[str] | None = None) -> tuple[Entry, ...]:
    """The networks of a folder.

    Args:
        folder: the folder of the manifest. Default: `default_folder()`.

    Returns:
        The entries, by experiment; of each, those with the published settings come first, and a
        lower seed before a higher one.

    Raises:
        WeightFileError: if there is no manifest, or it is damaged.
    """
    path = Path(folder or default_folder(), _FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WeightFileError(
            f"There is no {path}. The trained networks are in the folder pretrained of the "
            f"project's repository; name such a folder with the environment variable "
            f"{PRETRAINED_DIR}."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from None
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT:
            raise WeightFileError(f"{path} is of another version of the library.")
        entries = [_entry(each) for each in values["networks"]]
    except WeightFileError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightFileError(f"{path} is damaged: {error!r}") from None
    return tuple(entries)


def names(folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """The names of the networks of a folder, for `laperm_lib.paper.load_pretrained`.

    Args:
        folder: as for `read`.

    Raises:
        WeightFileError: as `read`.
    """
    return tuple(entry.name for entry in read(folder))


def find(name: str, folder: str | os.PathLike[str] | None = None) -> Entry:
    """A network by its name, or the first of an experiment by the name of that.

    Args:
        name: one of `names()`, such as "conv7-seed1", or an experiment, such as "conv7".
        folder: as for `read`.

    Raises:
        WeightFileError: if there is no such network, or as `read`.
    """
    entries = read(folder)
    for entry in entries:
        if name == entry.name:
            return entry
    for entry in entries:
        if name == entry.experiment:
            return entry
    known = ", ".join(entry.name for entry in entries) or "none"
    raise WeightFileError(
        f"There is no trained network {name!r} in {folder or default_folder()}; there are {known}."
    )


def add(entry: Entry, folder: str | os.PathLike[str]) -> None:
    """Write an entry into the manifest of a folder, in the place of one of that name.

    Args:
        entry: what is to be said.
        folder: where the network is; the manifest is made if there is none.

    Raises:
        WeightFileError: if there is a damaged manifest.
    """
    path = Path(folder, _FILE)
    others = [each for each in read(folder) if each.name != entry.name] if path.exists() else []
    entries = sorted([*others, entry], key=_rank)
    values = {"format": _FORMAT, "networks": [asdict(each) for each in entries]}
    files.write_json(path, values)


def _rank(entry: Entry) -> tuple[str, bool, int, str]:
    """Names are as in "conv7-seed0", or "conv7-seed0-5d41f2aa" with settings of its own."""
    is_varied = entry.name != f"{entry.experiment}-seed{entry.seed}"
    return entry.experiment, is_varied, entry.seed, entry.name


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**values)
    for text in (entry.name, entry.file, entry.sha256, entry.experiment):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text")
    if Path(entry.file).name != entry.file:
        raise ValueError(f"{entry.file!r} is no file beside the manifest")
    return entry
