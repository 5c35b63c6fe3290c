"""The list of the trained networks that come with the project, and where their files are.

The list, `manifest.json`, lies beside this module and travels with the package. The networks are in
the folder `pretrained` of the repository, with the records of all recorded runs. It is found from
within a checkout, also by an installed package. Elsewhere the environment variable
LAPERM_PRETRAINED_DIR names it, or for networks alone its https address. A folder with a
`manifest.json` of its own is listed by that.
"""

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from laperm_lib import files
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper.locks import locked

PRETRAINED_DIR = "LAPERM_PRETRAINED_DIR"
"""The environment variable with the folder, or the https address, of the networks."""

_PACKAGED = Path(__file__).with_name("manifest.json")
_CHECKOUT = Path(__file__).resolve().parents[2] / "pretrained"
_FORMAT = 2
_WHAT_TO_SET = (
    f"set the environment variable {PRETRAINED_DIR} to a folder that holds them, such as "
    "pretrained of the project's repository"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the manifest says of a network; the rest is in the record beside its file."""

    name: str  # for `load_pretrained`; that of its run folder
    file: str  # in the folder of the networks
    sha256: str  # of the file, in hexadecimal
    size: int  # in bytes
    experiment: str
    permuted_weights: int  # how many weights the file holds as an arrangement alone
    bits_per_weight: float  # those of the arrangement, for each of them
    bound_per_weight: float  # the binary logarithm of the number of arrangements, for each

    def __post_init__(self) -> None:
        for name, kind in Entry.__annotations__.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise ValueError(f"{name} is {value!r}, which is no {kind.__name__}")
        for text in (self.name, self.file):
            if Path(text).name != text or "\0" in text:
                raise ValueError(f"{text!r} is not a file beside the manifest")


def default_folder() -> Path:
    """Where networks and records are: `$LAPERM_PRETRAINED_DIR`, or `pretrained` of a checkout."""
    given = os.environ.get(PRETRAINED_DIR)
    if given and "://" in given:
        raise WeightFileError(
            f"{PRETRAINED_DIR} is {given}, but records are read from a folder: download them to "
            "one, and set it to that."
        )
    if given:
        return Path(given)
    here = Path.cwd()
    # A notebook may run in a checkout with the package installed elsewhere.
    around = [each / "pretrained" for each in (here, here.parent) if (each / "laperm_lib").is_dir()]
    for folder in filter(Path.is_dir, [_CHECKOUT, *around]):
        return folder
    raise WeightFileError(
        f"The networks and records do not come with the package: {_WHAT_TO_SET} (for networks "
        "alone, its https address will do)."
    )


def recorded(name: str = "") -> Path:
    """The records of recorded runs that come with the project.

    Args:
        name: a JSON file of records, such as "f1.json", or a folder with such files, such as "rso",
            within `default_folder()`. Default: that folder itself.

    Returns:
        The path, at which there are records.

    Raises:
        WeightFileError: if there are none; says what to set.

    Examples:
        >>> recorded("rso/mnist_addition.json").name
        'mnist_addition.json'
    """
    path = default_folder() / name
    if not path.is_file() and not any(path.glob("*.json")):
        raise WeightFileError(f"There are no records in {path}: {_WHAT_TO_SET}.")
    return path


def read(folder: str | os.PathLike[str] | None = None) -> tuple[Entry, ...]:
    """The networks of a folder, by default the project's; a WeightFileError if there is no list."""

    def parse(values: dict[str, Any]) -> tuple[Entry, ...]:
        if values["format"] != _FORMAT:
            raise ValueError(f"it has format {values['format']}, not {_FORMAT}")
        return tuple(Entry(**each) for each in values["networks"])

    try:
        return files.read_json(_path(folder), parse, holds="a manifest of networks")
    except LaPermError as error:
        raise WeightFileError(str(error)) from None


def find(name: str, folder: str | os.PathLike[str] | None = None) -> Entry:
    """A network by its name, or the first of an experiment by the name of that.

    >>> find("conv7").name
    'conv7-seed0-7b5760fc'
    """
    entries = read(folder)
    named = [entry for entry in entries if entry.name == name]
    for entry in named or [entry for entry in entries if entry.experiment == name]:
        return entry
    known = ", ".join(entry.name for entry in entries) or "none"
    raise WeightFileError(f"There is no trained network {name!r}; there are {known}.")


def add(entry: Entry, folder: str | os.PathLike[str]) -> None:
    """Write an entry into the manifest of a folder, in the place of one of that name.

    Others that are writing it are waited for, a minute at most; then it is a BusyError.
    """
    path = _path(folder, new=True)
    with locked(path.with_name(".manifest.lock"), wait=60):
        files.delete_parts(path.parent, path.name)
        others = [each for each in read(folder) if each.name != entry.name] if path.exists() else []
        entries = sorted([*others, entry], key=_rank)
        values = {"format": _FORMAT, "networks": [asdict(each) for each in entries]}
        files.write_json(path, values)


def locate(entry: Entry, folder: str | os.PathLike[str] | None = None) -> Path:
    """The file of a network, compared with the manifest; downloaded from an https address."""
    address = os.environ.get(PRETRAINED_DIR, "")
    if folder is None and "://" in address:
        try:
            path = Path(
                keras.utils.get_file(
                    f"{entry.sha256[:16]}-{entry.file}",
                    origin=f"{address.rstrip('/')}/{entry.file}",
                    file_hash=entry.sha256,
                    cache_subdir="laperm_lib",
                )
            )
        except Exception as error:  # Keras raises a bare Exception when it cannot fetch a URL
            raise WeightFileError(f"{entry.file} cannot be downloaded: {error}") from None
    else:
        path = Path(folder or default_folder(), entry.file)
    try:
        size = path.stat().st_size
        if not path.resolve().is_relative_to(path.parent.resolve()):
            raise WeightFileError(f"{path} is a link out of its folder: put the file itself there.")
        if size == entry.size:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                    return path
    except FileNotFoundError:
        raise WeightFileError(f"{path}: there is no such file.") from None
    except WeightFileError:
        raise
    except (OSError, ValueError) as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from None
    raise WeightFileError(f"{path} is damaged: it is not the file that the manifest lists.")


def _path(folder: str | os.PathLike[str] | None, new: bool = False) -> Path:
    """The manifest of a folder: its own, or the project's for the project's networks."""
    folder = folder or os.environ.get(PRETRAINED_DIR) or _CHECKOUT
    own = Path(folder, "manifest.json")
    is_own = (new or own.exists()) and Path(folder).resolve() != _CHECKOUT
    return own if is_own else _PACKAGED


def _rank(entry: Entry) -> tuple[str, bool, int, str]:
    """By experiment, published settings first: "conv7-seed0", then "conv7-seed0-5d41f2aa"."""
    seed = re.search(r"-seed(\d+)", entry.name)
    return entry.experiment, entry.name.count("-") > 1, int(seed[1]) if seed else 0, entry.name
