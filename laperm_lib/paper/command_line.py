"""The command line: list, run, sweep, search, table, verify, publish and import."""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from laperm_lib import _backend, files
from laperm_lib.errors import LaPermError, WeightFileError
from laperm_lib.paper import benchmark, manifest, queue, records, runs, table, verification
from laperm_lib.paper._fields import INT32
from laperm_lib.paper.evaluation import schedule
from laperm_lib.paper.pretrained import is_path
from laperm_lib.paper.records import summarise
from laperm_lib.paper.runs import Task
from laperm_lib.paper.settings import EXPERIMENTS, PROFILES, RECORD_RUNS
from laperm_lib.paper.studies import shared_value
from laperm_lib.paper.training import Stop


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> int:
    """Do what the command line asks for, and give the exit status.

    A training's seconds are counted from when the program `began`. Default: from its own start.

    0 is success, 1 failure, 2 something that was asked for and cannot be; 128 + n is a signal's.
    """
    parser, words = _parser(), sys.argv[1:] if arguments is None else arguments
    if any(word.endswith("=--") for word in words):  # argparse would make a list of it
        parser.error("an option that ends in =-- has no value")
    options = parser.parse_args(words, argparse.Namespace(began=began))
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("laperm_lib").setLevel(logging.INFO)
    try:
        if options.backend not in (None, _backend.name()):
            raise ValueError(f"Keras computes with {_backend.name()} here already.")
        return options.command(options)
    except (LaPermError, OSError, ImportError) as error:
        return _complain(str(error))
    except ValueError as error:  # those that are no LaPermError are of arguments
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; the same command resumes from the latest checkpoints.")
        return 128 + signal.SIGINT


def _list(options: argparse.Namespace) -> int:
    """Show the experiments, what they cost, and what is done of them."""
    found = runs.states(options.runs, _shipped(options))
    planned = benchmark.plan(options.profile)
    for name in RECORD_RUNS:
        planned += benchmark.tasks(name, seeds=range(3), profile=options.profile)
    _say(table.plain(benchmark.overview(planned, found)))
    return 0


def _run(options: argparse.Namespace) -> int:
    """Train an experiment, a sweep, or all that is missing, and resume what was interrupted."""
    stop = Stop(options.time_budget)
    how: dict[str, Any] = {
        "data_dir": options.data_dir,
        "every_seconds": options.checkpoint_every,
        "stop": stop,
        "began": options.began,
        "verbose": 1,
    }
    with stop.on_signals():
        if not options.all:
            done = benchmark.run_each(_tasks(options), options.runs, **how)
            return _report(options, stop, done)
        if options.seed is not None:
            raise ValueError(
                "--seed is for one experiment; --all takes seeds 0, ..., --seeds many."
            )
        planned = benchmark.plan(
            options.profile or "paper",
            seeds=options.seeds,
            evaluate_after=options.evaluate_after,
            **_values(options),
        )
        done = benchmark.run_missing(planned, options.runs, shipped=_shipped(options), **how)
        return _report(options, stop, done)


def _sweep(options: argparse.Namespace) -> int:
    """Train all combinations of seeds and values on Dask's workers."""
    stop = Stop()
    with stop.on_signals():
        done = queue.sweep(
            _tasks(options),
            options.runs,
            scheduler=options.scheduler,
            workers=options.workers,
            data_dir=options.data_dir,
            every_seconds=options.checkpoint_every,
            stop=stop,
        )
    return _report(options, stop, done)


def _search(options: argparse.Namespace) -> int:
    """Look for the best network whose weights share one value, then measure it."""
    study = shared_value.search(
        options.space,
        trials=options.trials,
        dataset=options.dataset,
        data_dir=options.data_dir,
        storage=options.storage,
    )
    study = shared_value.confirm(study, range(options.seeds), data_dir=options.data_dir)
    shared_value.save(study, options.output)
    tested = summarise(record.final for record in study.confirmed)
    _say(
        f"{options.space}: best of {len(study.results)} trials, held out "
        f"{100 * study.held_out(study.best):.2f} %, "
        f"test accuracy {tested} % over {tested.runs} seeds"
    )
    return 0


def _table(options: argparse.Namespace) -> int:
    """Set what is finished beside what was published."""
    found = runs.states(options.runs, _shipped(options))
    finished = [state.record for state in found if state.record is not None]
    _say(table.FORMATS[options.format](table.table(finished, options.names)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Prove that networks are what their manifest says."""
    right = wrong = 0
    shipped = _shipped(options)
    for given in options.networks or [shipped or manifest.default_folder()]:
        folder, names = _networks(given, shipped)
        for name in names:
            try:
                found = verification.verify(name, folder, data_dir=options.data_dir)
            except LaPermError as error:
                problems: Sequence[str] = [str(error)]
            else:
                problems = found.problems
                if not problems:
                    vectors = sum(proof.vectors for proof in found.proofs)
                    said = f"; {found.record.final:.4f} was measured on other copies of the images"
                    _say(
                        f"{name}: all {vectors} weight vectors are permutations of their initial "
                        f"values; accuracy {found.accuracy:.4f}{said if found.other_images else ''}"
                    )
            for problem in problems:
                _complain(f"{name}: {problem}")
            wrong += bool(problems)
            right += not problems
    _say(f"{right} of {right + wrong} networks are what is said of them.")
    return 1 if wrong else 0


def _networks(given: Path, shipped: Path | None) -> tuple[Path | None, Sequence[str]]:
    """The folder of networks, and their names there, from a folder, a file or the name of one."""
    if given.is_dir():
        return given, [entry.name for entry in manifest.read(given)]
    if not is_path(given):
        return shipped, [manifest.find(given.name, shipped).name]
    names = [entry.name for entry in manifest.read(given.parent) if entry.file == given.name]
    if not names:
        raise LaPermError(f"{given} is neither a folder nor a network of its folder's manifest.")
    return given.parent, names


def _publish(options: argparse.Namespace) -> int:
    """Put the networks of finished runs, and their records, where the shipped ones are."""
    for folder in options.folders:
        entry = verification.publish(folder, options.pretrained)
        _say(
            f"{entry.name}: {entry.bits_per_weight:.3f} bits per weight "
            f"(bound {entry.bound_per_weight:.3f}), {entry.size} bytes"
        )
    return 0


def _import(options: argparse.Namespace) -> int:
    """Add records that were made elsewhere to the shipped ones."""
    destination = options.pretrained or manifest.default_folder()
    added, skipped = runs.add_records(options.paths, destination)
    for name in added:
        _say(f"{name}: added")
    for name in skipped:
        _say(f"{name}: skipped, it is there already")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "run": _run,
    "sweep": _sweep,
    "search": _search,
    "table": _table,
    "verify": _verify,
    "publish": _publish,
    "import": _import,
}


def _tasks(options: argparse.Namespace) -> list[Task]:
    first = options.seed or 0
    tasks = benchmark.tasks(
        options.experiment,
        seeds=range(first, first + (options.seeds or 1)),
        profile=options.profile or "quick",
        evaluate_after=options.evaluate_after,
        **_values(options),
    )
    for task in tasks:  # before data are loaded, and not in a worker
        schedule(task.settings, 0, task.evaluate_after)
    return tasks


def _values(options: argparse.Namespace) -> dict[str, list[Any]]:
    names = [name for name, _ in options.set]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--set {name} is given twice; several values are {name}=A,B.")
    return dict(options.set)


def _shipped(options: argparse.Namespace) -> Path | None:
    """The folder of shipped records; a package without them trains all the same."""
    try:
        return options.pretrained or manifest.default_folder()
    except WeightFileError:
        return None


def _report(options: argparse.Namespace, stop: Stop, done: benchmark.Report) -> int:
    if options.output and done.finished:
        records.save(done.finished, options.output)
    for _, row in table.by_settings(done.finished).iterrows():
        _say(
            f"{row['experiment']} ({row['settings']}): final test accuracy {row['final']:.4f} "
            f"± {row['final_std']:.4f} over {row['seeds']} runs, in {options.runs}"
        )
    for error in dict.fromkeys(done.failed.values()):
        names = [name for name, why in done.failed.items() if why == error]
        _complain(f"{', '.join(names)}: {error}")
    status = 1 if done.failed else 0
    if done.left and stop():
        _say(f"Stopped. Runs left: {len(done.left)}; the same command resumes them.")
        return status if stop.signal is None else 128 + stop.signal
    if done.left:
        names = [state.task.name for state in done.left]
        _say(f"Being trained by another process, and not waited for: {', '.join(names)}.")
    return status


def _say(text: str) -> None:
    print(text)  # noqa: T201


def _complain(text: str) -> int:
    print(f"laperm_lib: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return 1


# -- the options ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m laperm_lib", description="The experiments of the paper, and their results."
    )
    parts = whole.add_subparsers(required=True, metavar="COMMAND")
    of: dict[str, argparse.ArgumentParser] = {}
    for name, command in _COMMANDS.items():
        of[name] = parts.add_parser(
            name, help=command.__doc__, description=command.__doc__, allow_abbrev=False
        )
        of[name].set_defaults(command=command)

    def add(commands: str, option: str, **how: Any) -> None:
        for name in commands.split():
            of[name].add_argument(option, **how)

    experiment: dict[str, Any] = {
        "choices": benchmark.names(),
        "metavar": "experiment",
        "help": f"one of {', '.join(benchmark.names())}",
    }
    what = of["run"].add_mutually_exclusive_group(required=True)
    # A positional of a group is optional to argparse; the group wants one of the two.
    what.add_argument("experiment", nargs="?", **experiment)
    what.add_argument(
        "--all", action="store_true", help="whatever is missing of the whole table, cheapest first"
    )
    add("sweep", "experiment", **experiment)
    count = _number(int, 1, 1000)
    add("run sweep", "--seed", type=_number(int, 0, 2**63 - 1), help="the first (default 0)")
    add("run sweep", "--seeds", type=count, help="how many (default 1; --all: as planned)")
    profile = "(default: quick for an experiment, paper for --all)"
    add("run sweep", "--profile", choices=PROFILES, help=profile)
    add(
        "run sweep",
        "--evaluate-after",
        type=_number(int, 0, INT32),
        nargs="+",
        default=[0],
        metavar="STEPS",
        help="steps after a synchronisation at which to measure test accuracy (default 0)",
    )
    add(
        "run sweep",
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]",
        help="another value, or several, for a setting, as in sync_period=20,100; there are "
        + ", ".join(_SETTINGS),
    )
    seconds: dict[str, Any] = {
        "type": _number(float, 0, 10**9),
        "default": 60,
        "metavar": "SECONDS",
    }
    add("run sweep", "--checkpoint-every", help="(default 60)", **seconds)
    add("run sweep", "--output", type=_new_file, help="a JSON file for all records together")
    budget = "stop with a checkpoint after 90s, 25m, 2h or 1h30m (default: never)"
    add("run", "--time-budget", type=_duration, metavar="TIME", help=budget)
    scheduler = "its address (default: a cluster on this machine)"
    add("sweep", "--scheduler", type=_address, help=scheduler)
    add("sweep", "--workers", type=count, default=1, help="of that cluster (default 1)")

    add("search", "space", choices=shared_value.SPACES)
    add("search", "--trials", type=_number(int, 1, 100_000), default=100, help="(default 100)")
    add("search", "--dataset", choices=("mnist", "digits"), default="mnist")
    seeds = "of the best trial on all images (default 10)"
    add("search", "--seeds", type=count, default=10, help=seeds)
    storage = "a file from which an interrupted search resumes"
    add("search", "--storage", type=_new_file, help=storage)
    add("search", "--output", type=_new_file, required=True, help="a JSON file for the study")

    add("list", "--profile", choices=PROFILES, default="paper", help="(default paper)")
    names = "experiments and sweeps (default: the rows of the paper and their Adam baselines)"
    add("table", "names", nargs="*", metavar="NAME", help=names)
    add("table", "--format", choices=table.FORMATS, default="text")
    networks = (
        "folders with a manifest, files beside one, or names as load_pretrained takes them "
        "(default: all that are shipped)"
    )
    add("verify", "networks", nargs="*", type=_path, help=networks)
    add("publish", "folders", nargs="+", type=_path, help="folders of finished runs")
    paths = "folders of finished runs, or JSON files of records"
    add("import", "paths", nargs="+", type=_path, help=paths)

    backends = ("tensorflow", "jax", "torch")
    add(" ".join(of), "--backend", choices=backends, help="Keras's (default: its own)")
    root = "where run folders are (default: $LAPERM_RUNS_DIR, or runs)"
    add("list run sweep table", "--runs", type=_folder, default=str(runs.default_root()), help=root)
    shipped = (
        "where shipped networks and records are (default: $LAPERM_PRETRAINED_DIR, or pretrained in "
        "the repository)"
    )
    add("list run table verify", "--pretrained", type=_known_folder, help=shipped)
    add("publish import", "--pretrained", type=_folder, help=shipped)
    data = "where datasets lie (default: $LAPERM_DATA_DIR)"
    add("run sweep verify search", "--data-dir", type=_folder, help=data)
    return whole


def _number(kind: type, least: float, most: float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        with suppress(ValueError):
            if least <= kind(text) <= most:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{kind.__name__} from {least} to {most}, not {text!r}")

    return read


def _path(text: str) -> Path:
    """A path that can be, whether there is something or not."""
    try:
        path = Path(text or "\0").expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"a path, but {text!r} is none: {error}") from None
    return path


def _folder(text: str) -> Path:
    """A folder, which need not be there yet."""
    path = _path(text)
    # A link that leads nowhere is there too.
    above = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"a folder, but {above} is none")
    return path


def _known_folder(text: str) -> Path:
    path = _path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"a folder, but there is none at {text!r}")
    return path


def _new_file(text: str) -> Path:
    """A file that can be written: known before a training rather than after it."""
    path = _path(text)
    try:
        _folder(str(path.absolute().parent))
        files.check_replaceable(path)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"a file that can be written, but {error}") from None
    return path


def _address(text: str) -> str:
    if not re.fullmatch(r"(\w+://)?([\w.-]{1,253}|\[[\w:.%]+\]):\d{1,5}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"an address such as tcp://10.0.0.1:8786, not {text!r}")
    return text


def _duration(text: str) -> float:
    """Read hours, minutes and seconds, as in 1h30m, as seconds."""
    found = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    if not text or found is None:
        raise argparse.ArgumentTypeError(f"a time such as 90s, 25m or 1h30m, not {text!r}")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


_WORDS = {"yes": True, "no": False, "none": None}
_SETTINGS = (
    *("model", "initializer", "precision", "dataset", "pixels", "held_out", "evaluate_every"),
    *("epochs", "batch_size", "learning_rate", "decay", "decay_every", "pruned"),
    *("permute_biases", "constant_fan_in", "sync_period"),
)
"""The settings that a word can give."""
assert set(_SETTINGS) <= {n for each in EXPERIMENTS.values() for n in each.values()}


def setting(text: str) -> tuple[str, list[Any]]:
    """Read `name=value,value`; the settings say themselves what they can be.

    >>> setting("sync_period=20,none")
    ('sync_period', [20, None])
    """
    name, _, values = text.partition("=")
    if name not in _SETTINGS or not values:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, where NAME is one of {', '.join(_SETTINGS)}")
    return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    for read in (_WORDS.__getitem__, int, float):
        with suppress(KeyError, ValueError):
            return read(text)
    return text
