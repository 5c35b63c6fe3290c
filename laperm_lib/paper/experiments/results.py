"""What there is: runs finished and begun, and the table that sets them beside the published ones.

References:
    Qiu and Suda, NeurIPS 2020, section 5, whose results table this is.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from laperm_lib.paper import datasets
from laperm_lib.paper.experiments import catalogue, records
from laperm_lib.paper.experiments.catalogue import SWEEPS, Variant
from laperm_lib.paper.experiments.folders import RunFolder, Task, tasks_in
from laperm_lib.paper.experiments.profiles import PUBLISHED
from laperm_lib.paper.experiments.records import Record, Summary, summarise


@dataclass(frozen=True)
class State:
    """How far a training is.

    Args:
        task: the training.
        step: of its latest checkpoint; all of them if it is finished.
        record: what came out, if it is finished.
        folder: whether it has a run folder, and not only a record elsewhere.
    """

    task: Task
    step: int
    record: Record | None
    folder: bool = True

    @property
    def seconds_left(self) -> float:
        """About how long the rest takes on 2 cores, as `laperm_lib.paper.experiments.catalogue` says."""
        if self.record is not None:
            return 0.0
        left = 1 - self.step / catalogue.steps(self.task.settings)
        return catalogue.seconds(self.task.settings) * left


def states(
    root: str | os.PathLike[str], pretrained: str | os.PathLike[str] | None = None
) -> list[State]:
    """All trainings that have been begun, by name; nothing is written.

    Args:
        root: where all run folders are. There need not be any.
        pretrained: a folder with JSON files of records, as `laperm_lib.paper.experiments.save` writes
            them. A training that is finished in a run folder counts from there. Default: none.

    Raises:
        LaPermError: if a configuration or a record cannot be read.
    """
    found: dict[str, State] = {}
    for path in sorted(Path(pretrained).glob("*.json")) if pretrained is not None else []:
        if path.name == "manifest.json":
            continue
        for record in records.load(path):
            if record.experiment in PUBLISHED:
                task = Task(record.experiment, record.hyperparameters, record.seed)
                every_step = catalogue.steps(task.settings)
                # The record beside a shipped network, f1-seed0.json, comes before f1.json.
                found.setdefault(task.name, State(task, every_step, record, folder=False))
    for task in tasks_in(root):
        state = state_of(RunFolder(root, task))
        if state.record is not None or task.name not in found:
            found[task.name] = state
    return [found[name] for name in sorted(found)]


def state_of(folder: RunFolder) -> State:
    """How far the training of a run folder is."""
    if folder.is_finished:
        return State(folder.task, catalogue.steps(folder.task.settings), folder.record())
    return State(folder.task, max(folder.checkpoints.steps(), default=0), None)


@dataclass(frozen=True)
class Line:
    """Some runs of one experiment with one variant of its settings, beside what was published.

    Accuracies are shares of the test images, 0 to 1; `laperm_lib.paper.experiments.Outcome` says what
    each means. They are None where there is no run, or no run that has them.

    Args:
        experiment: its name.
        section: where the paper has it; None if it is none of its rows.
        sync_period: k of these runs; None for Adam alone.
        published: the paper's accuracy.
        variant: the settings, in words; "" if there is no run. Runs that differ in seed and
            precision alone share a line, which then names the precisions.
        profile: "paper" for runs in full, "short" for a shortened schedule; "" if there is no run.
        seeds: how many runs, each with a seed of its own.
        final: mean and spread over seeds.
        final_reestimated: the same.
        selected: the same.
        published_protocol: the same.
        permutations: how many of the networks at the end are bitwise a permutation of their start.
        between: how many runs were best, by the published protocol, at a step between two
            synchronisations, where the network is no permutation.
        copies: how the data of these runs differ from the published ones, in words, if they do.
    """

    experiment: str
    section: str | None
    sync_period: int | None
    published: float | None
    variant: str = ""
    profile: str = ""
    seeds: int = 0
    final: Summary | None = None
    final_reestimated: Summary | None = None
    selected: Summary | None = None
    published_protocol: Summary | None = None
    permutations: int = 0
    between: int = 0
    copies: tuple[str, ...] = ()


def table(found: Sequence[Record], names: Sequence[str] = ()) -> list[Line]:
    """Set runs beside the published results.

    Args:
        found: the records. Those with settings that belong to no line are left out. An experiment
            of which there are runs in full has no line for a shortened schedule; a sweep has both.
        names: experiments and sweeps to be shown. Default: the rows of the paper's table, each with
            its Adam baseline.

    Returns:
        A line per experiment, or per value of a sweep, and variant of the settings. One without any
        run says so by `seeds` 0.

    Raises:
        ValueError: if a name is unknown.

    Examples:
        >>> [(line.experiment, line.published, line.seeds) for line in table([])][:3]
        [('conv7', 0.9972, 0), ('conv7_adam', None, 0), ('conv2', 0.7821, 0)]
    """
    if not names:
        names = [name for row in catalogue.ROWS for name in (row.experiment, row.baseline)]
    lines = []
    for name in names:
        if name in SWEEPS:
            lines += _lines_of_sweep(name, found)
        elif name in PUBLISHED:
            own = [(variant_of(r), r) for r in found if r.experiment == name]
            own = [pair for pair in own if pair[0].is_as_published]
            in_full = [pair for pair in own if pair[0].profile == "paper"]
            lines += _lines(name, in_full or own)
        else:
            known = ", ".join(catalogue.names())
            raise ValueError(f"Unknown experiment or sweep {name!r}; there are {known}.")
    return lines


def by_variant(found: Iterable[Record]) -> list[Line]:
    """A line for every variant of settings among some runs, whatever they are."""
    lines = []
    pairs = [(variant_of(record), record) for record in found]
    for name in dict.fromkeys(record.experiment for _, record in pairs):
        lines += _lines(name, [pair for pair in pairs if pair[1].experiment == name])
    return lines


def variant_of(record: Record) -> Variant:
    """How the settings of a run stand to the published ones."""
    return catalogue.variant(record.experiment, record.hyperparameters)


def grouped(runs: Iterable[tuple[Variant, Record]]) -> dict[Variant, list[Record]]:
    """Runs that train the same together, each seed once.

    Args:
        runs: each with its variant.

    Returns:
        For each variant the records. They may differ in precision, of which the variant then says
        nothing; but where one seed was trained in several, each precision has a variant of its own.
    """
    groups: dict[Variant, list[tuple[Variant, Record]]] = {}
    for variant, record in runs:
        groups.setdefault(variant.without("precision"), []).append((variant, record))
    parted: dict[Variant, list[Record]] = {}
    for shared, own in groups.items():
        trainings = {(r.seed, replace(r.hyperparameters, precision="float32")) for _, r in own}
        for variant, record in own:
            key = shared if len(trainings) == len(own) else variant
            parted.setdefault(key, []).append(record)
    return parted


def _in_words(variant: Variant, own: Sequence[Record]) -> str:
    counts = Counter(record.hyperparameters.precision for record in own)
    if set(counts) == {"float32"}:
        return str(variant)
    words = [name if len(counts) == 1 else f"{name} ({n})" for name, n in sorted(counts.items())]
    return f"{variant}, precision={' and '.join(words)}"


def _lines_of_sweep(name: str, found: Sequence[Record]) -> list[Line]:
    """The lines of each value; the published accuracy is beside the published value alone."""
    sweep = SWEEPS[name]
    lines = []
    for value in sweep.values:
        own = []
        for record in found:
            here = record.experiment == sweep.experiment
            if here and getattr(record.hyperparameters, sweep.setting) == value:
                own.append((variant_of(record).without(sweep.setting), record))
        is_row = value == getattr(PUBLISHED[sweep.experiment], sweep.setting)
        label = f"{sweep.setting}={value}"
        for line in _lines(sweep.experiment, [run for run in own if run[0].is_as_published]):
            words = f"{label}; {line.variant}" if line.variant else label
            period = value if sweep.setting == "sync_period" else line.sync_period
            line = replace(line, variant=words, sync_period=period)
            lines.append(line if is_row else replace(line, section=None, published=None))
    return lines


def _lines(name: str, runs: Sequence[tuple[Variant, Record]]) -> list[Line]:
    row = catalogue.row(name)
    line = Line(
        name,
        section=row.section if row else None,
        sync_period=PUBLISHED[name].sync_period,
        published=row.accuracy if row else None,
    )
    lines = []
    for variant, own in grouped(runs).items():
        lines.append(
            replace(
                line,
                sync_period=own[0].hyperparameters.sync_period,
                variant=_in_words(variant.without("precision"), own),
                profile=variant.profile,
                seeds=len(own),
                final=_summary(record.final for record in own),
                final_reestimated=_summary(record.final_reestimated for record in own),
                selected=_summary(record.selected for record in own),
                published_protocol=_summary(record.published_protocol for record in own),
                permutations=sum(record.is_permutation for record in own),
                between=sum(map(_is_best_between, own)),
                copies=_copies(own),
            )
        )
    return lines or [line]


def _copies(own: Iterable[Record]) -> tuple[str, ...]:
    known = (datasets.COPIES.get(record.data_fingerprint) for record in own)
    return tuple(sorted({copy.difference for copy in known if copy is not None}))


def _is_best_between(record: Record) -> bool:
    synchronised = [e.accuracy for e in record.evaluations if e.since_sync == 0]
    return record.published_protocol > max([record.final, *synchronised])


def _summary(numbers: Iterable[float | None]) -> Summary | None:
    known = [number for number in numbers if number is not None]
    return summarise(known) if known else None
