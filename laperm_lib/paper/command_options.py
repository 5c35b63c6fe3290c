"""The options of the command line."""

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from laperm_lib.paper import experiments, manifest
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments import catalogue, formats
from laperm_lib.paper.experiments.folders import default_root
from laperm_lib.paper.experiments.profiles import PROFILES
from laperm_lib.paper.studies import shared_value_search

Command = Callable[[argparse.Namespace], int]
_EXPERIMENT = "one of " + ", ".join(catalogue.names())


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        commands: for the name of each command the function that carries it out, whose docstring
            is its help.

    Returns:
        A parser whose result has that function as `command`.
    """
    whole = argparse.ArgumentParser(
        prog="python -m laperm_lib", description="The experiments of the paper, and their results."
    )
    parts = whole.add_subparsers(required=True, metavar="COMMAND")
    of = {}
    for name, command in commands.items():
        help_text = (command.__doc__ or "").splitlines()[0]
        of[name] = parts.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        of[name].set_defaults(command=command)
        of[name].add_argument(
            "--backend", choices=("tensorflow", "jax", "torch"), help="Keras's (default: its own)"
        )
    for name in ("list", "run", "sweep", "table"):
        of[name].add_argument(
            "--runs",
            type=_folder,
            default=default_root(),
            help="where run folders are (default: $LAPERM_RUNS_DIR, or runs)",
        )
    for name in ("list", "run", "table", "verify", "publish"):
        of[name].add_argument(
            "--pretrained",
            type=_folder if name == "publish" else _known_folder,
            default=manifest.default_folder(),
            help="where shipped networks and records are (default: $LAPERM_PRETRAINED_DIR, or "
            "pretrained in the repository)",
        )
    for name in ("run", "sweep", "verify", "search"):
        of[name].add_argument("--data-dir", help="where datasets lie (default: $LAPERM_DATA_DIR)")
    of["list"].add_argument("--profile", choices=PROFILES, default="paper", help="(default paper)")
    _add_run(of["run"])
    _add_sweep(of["sweep"])
    of["table"].add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="experiments and sweeps (default: the rows of the paper and their Adam baselines)",
    )
    of["table"].add_argument("--format", choices=formats.FORMATS, default="text")
    of["verify"].add_argument(
        "networks",
        nargs="*",
        type=Path,
        help="folders with a manifest, files beside one, or names as load_pretrained takes them "
        "(default: all that are shipped)",
    )
    of["publish"].add_argument("folders", nargs="+", type=Path, help="folders of finished runs")
    _add_search(of["search"])
    return whole


def _add_run(run: argparse.ArgumentParser) -> None:
    what = run.add_mutually_exclusive_group(required=True)
    # A positional of a group is optional to argparse; the group wants one of the two.
    what.add_argument("experiment", nargs="?", type=_experiment, help=_EXPERIMENT)
    what.add_argument(
        "--all", action="store_true", help="whatever is missing of the whole table, cheapest first"
    )
    _add_training(run)
    run.add_argument(
        "--time-budget",
        type=_duration,
        metavar="TIME",
        help="stop with a checkpoint behind 90s, 25m, 2h or 1h30m (default: never)",
    )


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("experiment", type=_experiment, help=_EXPERIMENT)
    _add_training(sweep)
    sweep.add_argument("--scheduler", help="its address (default: a cluster on this machine)")
    sweep.add_argument("--workers", type=_positive, default=1, help="of that cluster (default 1)")


def _add_search(search: argparse.ArgumentParser) -> None:
    search.add_argument("space", choices=shared_value_search.SPACES)
    search.add_argument("--trials", type=_positive, default=100, help="(default 100)")
    search.add_argument("--dataset", choices=("mnist", "digits"), default="mnist")
    search.add_argument(
        "--seeds", type=_positive, default=10, help="of the best trial on all images (default 10)"
    )
    search.add_argument("--storage", help="a file from which a search that was cut goes on")
    search.add_argument("--output", type=_new_file, required=True, help="a JSON file for the study")


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, help="the first (default 0)")
    command.add_argument("--seeds", type=_positive, help="how many (default 1; --all: as planned)")
    command.add_argument(
        "--profile", choices=PROFILES, help="(default: quick for an experiment, paper for --all)"
    )
    command.add_argument(
        "--evaluate-after",
        type=int,
        nargs="+",
        default=[0],
        metavar="STEPS",
        help="steps after a synchronisation at which to measure test accuracy (default 0)",
    )
    command.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]",
        help="another value, or several, for a hyperparameter, as in sync_period=20,100; there are "
        + ", ".join(_readers()),
    )
    command.add_argument(
        "--checkpoint-every", type=float, default=60, metavar="SECONDS", help="(default 60)"
    )
    command.add_argument("--output", type=_new_file, help="a JSON file for all records together")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"an integer of at least 1, not {text!r}")
    return int(text)


def _folder(text: str) -> Path:
    """A folder, which need not be there yet."""
    path = Path(text)
    above = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"a folder, but {above} is none")
    return path


def _experiment(text: str) -> str:
    if text not in catalogue.names():
        raise argparse.ArgumentTypeError(f"unknown experiment {text!r}; {_EXPERIMENT}")
    return text


def _known_folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"a folder, but there is none at {text!r}")
    return path


def _new_file(text: str) -> Path:
    """A file that can be written: known before a training rather than behind it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"a file, but {text} is a folder")
    _folder(str(path.absolute().parent))
    return path


def _duration(text: str) -> float:
    """Read hours, minutes and seconds, as in 1h30m, as seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or found is None:
        raise argparse.ArgumentTypeError(f"a time such as 90s, 25m or 1h30m, not {text!r}")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def setting(text: str) -> tuple[str, list[Any]]:
    """Read `name=value,value` by the type that the hyperparameter has.

    Args:
        text: a word of the command line.

    Raises:
        argparse.ArgumentTypeError: if there is no such hyperparameter, or it takes no such value.

    Examples:
        >>> setting("sync_period=20,none")
        ('sync_period', [20, None])
        >>> setting("pixels=standardised,none")
        ('pixels', ['standardised', None])
    """
    name, _, values = text.partition("=")
    known = _readers()
    if name not in known or not values:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, where NAME is one of {', '.join(known)}")
    try:
        return name, [known[name](value) for value in values.split(",")]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{name} does not take {values!r}") from None


def _readers() -> dict[str, Callable[[str], Any]]:
    """For each hyperparameter that a word can give, how the word is read."""
    by_type: dict[Any, Callable[[str], Any]] = {
        int: int, float: float, str: str, bool: _yes_or_no, int | None: _int_or_none,
        models.Pixels | None: _text_or_none,
    }  # fmt: skip
    return {
        field.name: by_type[field.type]
        for field in fields(experiments.Hyperparameters)
        if field.type in list(by_type)
    }


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _text_or_none(text: str) -> str | None:
    return None if text == "none" else text


def _int_or_none(text: str) -> int | None:
    found = _text_or_none(text)
    return None if found is None else int(found)
