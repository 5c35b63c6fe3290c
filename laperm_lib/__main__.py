"""The command line: `python -m laperm_lib run f1 --seeds 10 --profile paper`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from laperm_lib import experiments
from laperm_lib.errors import LaPermError
from laperm_lib.experiments import sweeps
from laperm_lib.experiments.folders import RunFolder, Task, default_root
from laperm_lib.experiments.side_by_side import groups, run_side_by_side
from laperm_lib.notebooks import PROFILES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        arguments: the words behind `python -m laperm_lib`. Default: those of the process.

    Returns:
        0, or 1 after one line on stderr that says what is wrong.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("laperm_lib").setLevel(logging.INFO)
    try:
        return options.command(options)
    except (LaPermError, ValueError) as error:
        print(f"laperm_lib: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(options: argparse.Namespace) -> int:
    """Train an experiment, one run after the other or side by side."""
    how = {
        "data_dir": options.data_dir,
        "every_seconds": options.checkpoint_every,
        "verbose": 1,
    }
    tasks = _tasks(options)
    records: list[experiments.Record] = []
    for group in groups(tasks) if options.side_by_side else [[task] for task in tasks]:
        if options.side_by_side:
            records += run_side_by_side(group, options.runs, **how)
        else:
            records += [RunFolder(options.runs, task).run(**how) for task in group]
        if options.output:
            experiments.save(records, options.output)
    _report(options, records)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    """Train all combinations of seeds and values on Dask's workers."""
    results = sweeps.sweep(
        _tasks(options),
        options.runs,
        scheduler=options.scheduler,
        workers=options.workers,
        data_dir=options.data_dir,
        every_seconds=options.checkpoint_every,
    )
    records = [result for result in results.values() if not isinstance(result, str)]
    if options.output and records:
        experiments.save(records, options.output)
    if records:
        _report(options, records)
    failed = {name: error for name, error in results.items() if isinstance(error, str)}
    for name, error in failed.items():
        print(f"laperm_lib: {name}: {error}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


def _tasks(options: argparse.Namespace) -> list[Task]:
    return sweeps.grid(
        options.experiment,
        seeds=range(options.seed, options.seed + options.seeds),
        profile=options.profile,
        evaluate_after=options.evaluate_after,
        **dict(options.set),
    )


def _report(options: argparse.Namespace, records: Sequence[experiments.Record]) -> None:
    final = experiments.summarise(record.final for record in records)
    print(  # noqa: T201
        f"{options.experiment}: final test accuracy {final.mean:.4f} ± {final.spread:.4f} over "
        f"{final.runs} runs, in {options.runs}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m laperm_lib", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train an experiment, or go on with it")
    run.set_defaults(command=_run)
    run.add_argument(
        "--side-by-side",
        action="store_true",
        help="train all runs as one device program (KERAS_BACKEND=jax, an accelerator)",
    )
    sweep = commands.add_parser("sweep", help="train all combinations on a Dask cluster")
    sweep.set_defaults(command=_sweep)
    sweep.add_argument("--scheduler", help="its address (default: a cluster on this machine)")
    sweep.add_argument("--workers", type=_positive, default=1, help="of that cluster (default 1)")
    for command in (run, sweep):
        command.add_argument("experiment", choices=list(experiments.PUBLISHED))
        command.add_argument("--seed", type=int, default=0, help="the first (default 0)")
        command.add_argument("--seeds", type=_positive, default=1, help="how many (default 1)")
        command.add_argument("--profile", choices=PROFILES, default="quick")
        command.add_argument("--data-dir", help="where datasets lie (default: $LAPERM_DATA_DIR)")
        command.add_argument(
            "--runs",
            type=Path,
            default=default_root(),
            help="where run folders are (default: $LAPERM_RUNS_DIR, or runs)",
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
            type=_setting,
            action="append",
            default=[],
            metavar="NAME=VALUE[,VALUE...]",
            help="another value, or several, for a hyperparameter, as in sync_period=20,100",
        )
        command.add_argument(
            "--checkpoint-every", type=float, default=60, metavar="SECONDS", help="(default 60)"
        )
        command.add_argument("--output", type=Path, help="a JSON file for all records together")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _setting(text: str) -> tuple[str, list[Any]]:
    """Read `name=value,value` by the type that the hyperparameter has."""
    name, _, values = text.partition("=")
    readers: dict[Any, Callable[[str], Any]] = {
        int: int, float: float, str: str, bool: _yes_or_no, int | None: _int_or_none,
    }  # fmt: skip
    known = {
        field.name: readers[field.type]
        for field in fields(experiments.Hyperparameters)
        if field.type in list(readers)
    }
    if name not in known or not values:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, where NAME is one of {', '.join(known)}")
    try:
        return name, [known[name](value) for value in values.split(",")]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{name} does not take {values!r}") from None


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _int_or_none(text: str) -> int | None:
    return None if text == "none" else int(text)


if __name__ == "__main__":
    sys.exit(main())
