"""The command line: `python -m laperm_lib run f1 --seeds 10 --profile paper`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from laperm_lib import experiments
from laperm_lib.errors import LaPermError
from laperm_lib.notebooks import PROFILES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        arguments: the words behind `python -m laperm_lib`. Default: those of the process.

    Returns:
        0, or 1 after one line on stderr that says what is wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (LaPermError, ValueError) as error:
        print(f"laperm_lib: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    """Train an experiment with seeds 0, 1, ... and keep the records."""
    published = experiments.hyperparameters(options.experiment)
    settings = published if options.profile == "paper" else experiments.quick(options.experiment)
    records = []
    for seed in range(options.seeds):
        run = experiments.run(
            settings,
            seed=seed,
            data_dir=options.data_dir,
            evaluate_after=options.evaluate_after,
            verbose=1,
        )
        records.append(experiments.record(options.experiment, run))
        experiments.save(records, options.output)
    final = experiments.summarise(record.final for record in records)
    print(  # noqa: T201
        f"{options.experiment}: final test accuracy {final.mean:.4f} ± {final.spread:.4f} over "
        f"{final.runs} seeds, written to {options.output}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m laperm_lib", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train an experiment over several seeds")
    run.add_argument("experiment", choices=list(experiments.PUBLISHED))
    run.add_argument("--seeds", type=_positive, default=1, help="how many, from 0 on (default 1)")
    run.add_argument("--profile", choices=PROFILES, default="quick")
    run.add_argument("--data-dir", help="where the dataset lies (default: $LAPERM_DATA_DIR)")
    run.add_argument(
        "--evaluate-after",
        type=int,
        nargs="+",
        default=[0],
        metavar="STEPS",
        help="steps after each synchronisation at which to measure test accuracy (default 0)",
    )
    run.add_argument("--output", type=Path, required=True, help="the JSON file for the records")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
