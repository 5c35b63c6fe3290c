"""The command line: list, run, sweep, table, verify, publish and search.

For example::

    python -m laperm_lib run f1 --seeds 10 --profile paper
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from laperm_lib.errors import LaPermError
from laperm_lib.paper import experiments, manifest
from laperm_lib.paper.command_options import parser
from laperm_lib.paper.experiments import (
    campaign,
    catalogue,
    formats,
    publishing,
    results,
    sweeps,
    verification,
)
from laperm_lib.paper.experiments.folders import RunFolder, Task
from laperm_lib.paper.experiments.stopping import Stop, Stopped
from laperm_lib.paper.pretrained import is_path
from laperm_lib.paper.studies import shared_value_search


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Args:
        arguments: the words behind `python -m laperm_lib`. Default: those of the process.

    Returns:
        0; 1 behind a line on stderr for each thing that is wrong; 128 and the number of the signal
        that has interrupted it.
    """
    options = parser(_COMMANDS).parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("laperm_lib").setLevel(logging.INFO)
    try:
        if options.backend not in (None, keras.backend.backend()):
            raise ValueError(f"Keras computes with {keras.backend.backend()} here already.")
        return options.command(options)
    except (LaPermError, ValueError, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the latest checkpoints.")
        return 128 + signal.SIGINT


def _list(options: argparse.Namespace) -> int:
    """Show the experiments, what they cost, and what is done of them."""
    shipped = _shipped(options.pretrained)
    rows = [("experiment", "settings", "steps", "2 cores, h", "finished", "shipped", "begun")]
    found = results.states(options.runs, options.pretrained)
    for line in campaign.overview(catalogue.plan(options.profile), found):
        done = [state for state in line.finished if state.task.name in shipped]
        begun = [f"{s.task.seed} ({100 * s.step // line.steps} %)" for s in line.begun]
        rows.append(
            (
                line.experiment,
                line.variant,
                str(line.steps),
                f"{line.seconds / 3600:.2f}",
                f"{len(line.finished)} of {line.wanted}"
                if line.wanted
                else str(len(line.finished)),
                str(len(done) or ""),
                ", ".join(begun),
            )
        )
    _say(formats.columns(rows))
    return 0


def _shipped(folder: Path) -> set[str]:
    has_manifest = (folder / "manifest.json").exists()
    return set(manifest.names(folder)) if has_manifest else set()


def _run(options: argparse.Namespace) -> int:
    """Train an experiment, a sweep, or all that is missing, and go on with what was cut."""
    stop = Stop(options.time_budget)
    how = {
        "data_dir": options.data_dir,
        "every_seconds": options.checkpoint_every,
        "stop": stop,
        "verbose": 1,
    }
    with stop.on_signals():
        if options.all:
            return _run_all(options, stop, how)
        tasks = _tasks(options)
        records: list[experiments.Record] = []
        try:
            for task in tasks:
                records.append(RunFolder(options.runs, task).run(**how))
                _save(options, records)
        except Stopped:
            return _stopped(stop, len(tasks) - len(records))
    _report(options, records)
    return 0


def _run_all(options: argparse.Namespace, stop: Stop, how: dict[str, Any]) -> int:
    if options.seed is not None:
        raise ValueError("--seed is for one experiment; --all takes seeds 0, 1, ..., --seeds many.")
    planned = catalogue.plan(
        options.profile or "paper",
        seeds=options.seeds,
        evaluate_after=options.evaluate_after,
        **_values(options),
    )
    done = campaign.run_missing(
        planned,
        options.runs,
        pretrained=options.pretrained,
        **how,
    )
    _save(options, done.finished)
    _report(options, done.finished)
    for name, error in done.failed.items():
        _complain(f"{name}: {error}")
    if stop() and done.left:
        return max(_stopped(stop, len(done.left)), bool(done.failed))
    return 1 if done.failed else 0


def _stopped(stop: Stop, left: int) -> int:
    _say(f"Stopped. Runs left: {left}; the same command goes on with them.")
    return 0 if stop.signal is None else 128 + stop.signal


def _sweep(options: argparse.Namespace) -> int:
    """Train all combinations of seeds and values on Dask's workers."""
    found = sweeps.sweep(
        _tasks(options),
        options.runs,
        scheduler=options.scheduler,
        workers=options.workers,
        data_dir=options.data_dir,
        every_seconds=options.checkpoint_every,
    )
    records = [result for result in found.values() if not isinstance(result, str)]
    _save(options, records)
    _report(options, records)
    failed = {name: error for name, error in found.items() if isinstance(error, str)}
    for name, error in failed.items():
        _complain(f"{name}: {error}")
    return 1 if failed else 0


def _table(options: argparse.Namespace) -> int:
    """Set what is finished beside what was published."""
    found = results.states(options.runs, options.pretrained)
    records = [state.record for state in found if state.record is not None]
    _say(formats.FORMATS[options.format](results.table(records, options.names)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Prove that networks are what their manifest says."""
    right = wrong = 0
    for given in options.networks or [options.pretrained]:
        folder, names = _networks(given, options.pretrained)
        for name in names:
            try:
                found = verification.verify(name, folder, data_dir=options.data_dir)
            except LaPermError as error:
                problems: Sequence[str] = [str(error)]
            else:
                problems = found.problems
                if not problems:
                    vectors = sum(proof.vectors for proof in found.proofs)
                    said = f"; {found.entry.final:.4f} was measured on other copies of the images"
                    _say(
                        f"{name}: all {vectors} weight vectors are permutations of their start; "
                        f"accuracy {found.accuracy:.4f}{said if found.other_images else ''}"
                    )
            for problem in problems:
                _complain(f"{name}: {problem}")
            wrong += bool(problems)
            right += not problems
    _say(f"{right} of {right + wrong} networks are what is said of them.")
    return 1 if wrong else 0


def _networks(given: Path, shipped: Path) -> tuple[Path, Sequence[str]]:
    """The folder of networks, and their names there, from a folder, a file or the name of one."""
    if given.is_dir():
        return given, manifest.names(given)
    if not is_path(given):
        return shipped, [manifest.find(given.name, shipped).name]
    names = [entry.name for entry in manifest.read(given.parent) if entry.file == given.name]
    if not names:
        raise LaPermError(f"{given} is neither a folder nor a network of its folder's manifest.")
    return given.parent, names


def _publish(options: argparse.Namespace) -> int:
    """Put the networks of finished runs, and their records, where the shipped ones are."""
    for folder in options.folders:
        entry = publishing.publish(folder, options.pretrained)
        _say(
            f"{entry.name}: {entry.bits_per_weight:.3f} bits per weight "
            f"(bound {entry.bound_per_weight:.3f}), {entry.size} bytes"
        )
    return 0


def _search(options: argparse.Namespace) -> int:
    """Look for the best network whose weights share one value, then measure it."""
    study = shared_value_search.search(
        options.space,
        trials=options.trials,
        dataset=options.dataset,
        data_dir=options.data_dir,
        storage=options.storage,
    )
    study = shared_value_search.confirm(study, range(options.seeds), data_dir=options.data_dir)
    shared_value_search.save(study, options.output)
    tested = experiments.summarise(result.test or 0.0 for result in study.confirmed)
    _say(
        f"{options.space}: best of {len(study.results)} trials, held out "
        f"{study.held_out(study.best):.4f}, test accuracy {tested.mean:.4f} ± {tested.spread:.4f} "
        f"over {tested.runs} seeds"
    )
    return 0


_COMMANDS = {
    "list": _list,
    "run": _run,
    "sweep": _sweep,
    "table": _table,
    "verify": _verify,
    "publish": _publish,
    "search": _search,
}


def _tasks(options: argparse.Namespace) -> list[Task]:
    first = options.seed or 0
    return catalogue.tasks(
        options.experiment,
        seeds=range(first, first + (options.seeds or 1)),
        profile=options.profile or "quick",
        evaluate_after=options.evaluate_after,
        **_values(options),
    )


def _values(options: argparse.Namespace) -> dict[str, list[Any]]:
    names = [name for name, _ in options.set]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--set {name} is given twice; several values are {name}=A,B.")
    return dict(options.set)


def _save(options: argparse.Namespace, records: Sequence[experiments.Record]) -> None:
    if options.output and records:
        experiments.save(records, options.output)


def _report(options: argparse.Namespace, records: Sequence[experiments.Record]) -> None:
    for line in results.by_variant(records):
        assert line.final is not None  # there is a record
        _say(
            f"{line.experiment} ({line.variant}): final test accuracy {line.final.mean:.4f} "
            f"± {line.final.spread:.4f} over {line.seeds} runs, in {options.runs}"
        )


def _say(text: str) -> None:
    print(text)  # noqa: T201


def _complain(text: str) -> int:
    print(f"laperm_lib: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return 1
