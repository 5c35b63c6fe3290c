"""Tables and series of recorded runs beside the published results, all made here with pandas."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from laperm_lib._arguments import check_name
from laperm_lib.paper import benchmark, datasets
from laperm_lib.paper._extras import extra
from laperm_lib.paper.benchmark import SWEEPS, Variant
from laperm_lib.paper.records import Record, Summary, summarise
from laperm_lib.paper.settings import EXPERIMENTS

with extra("paper"):
    import pandas as pd

NOT_YET = "not yet reproduced"

ACCURACIES = {
    "final": "final",
    "final_reestimated": "re-estimated",
    "selected": "selected",
    "published_protocol": "published protocol",
}
"""The accuracies of a record, and what the table calls them."""


@dataclass(frozen=True)
class _Group:
    """Runs of one experiment that train the same with different seeds."""

    experiment: str
    variant: Variant
    records: tuple[Record, ...]

    @property
    def precisions(self) -> Counter[str]:
        return Counter(record.settings.network.precision for record in self.records)

    def settings(self) -> str:
        """What differs from the published settings, in words."""
        counts = self.precisions
        if set(counts) == {"float32"}:
            return str(self.variant)
        several = len(counts) > 1
        words = [f"{name} ({n})" if several else name for name, n in sorted(counts.items())]
        return f"{self.variant}, precision={' and '.join(words)}"


def _groups(records: Iterable[Record], setting: str | None = None) -> list[_Group]:
    """Runs that differ in their seeds alone, or in `setting`; and in precision, each seed once."""
    found = defaultdict[tuple[str, Variant], list[Record]](list)
    for record in records:
        variant = benchmark.variant(record.experiment, record.settings)
        found[record.experiment, variant.without("precision", setting)].append(record)
    groups = []
    for (experiment, variant), own in found.items():
        same = Counter((r.seed, r.settings.replace(precision="float32")) for r in own)
        parts = defaultdict[str, list[Record]](list)
        for record in own:
            precision = record.settings.network.precision
            parts[precision if max(same.values()) > 1 else ""].append(record)
        groups += [_Group(experiment, variant, tuple(part)) for part in parts.values()]
    return groups


def table(records: Iterable[Record], names: Sequence[str] = ()) -> pd.DataFrame:
    """Runs beside the published results: a row for all seeds of one setting.

    Args:
        records: what there is.
        names: experiments and sweeps. Default: the rows of the paper and their Adam baselines. An
            experiment has the runs with published settings: in full if there are any, else short.

    Returns:
        Columns experiment, section, pruned (percent), sync_period, published, settings, profile,
        seeds, mean and standard deviation of each of `ACCURACIES` (0 to 1), permutations (how many
        of the networks are), between (how many are best between two synchronisations), data (what
        differs from the official dataset). A row that nobody has trained has seeds 0.

    Raises:
        ValueError: if a name is unknown.

    Examples:
        >>> from laperm_lib.paper import manifest, records
        >>> f1 = table(records.load(manifest.default_folder() / "f1.json"), ["f1"]).loc[0]
        >>> int(f1.seeds), f"{f1.final:.4f}", float(f1.published)
        (10, '0.8135', 0.8546)
    """
    records = list(records)
    rows: dict[object, dict[str, Any]] = {}
    for name in names or [n for row in benchmark.ROWS for n in (row.experiment, row.baseline)]:
        check_name("experiment or sweep", name, benchmark.names())
        sweep = SWEEPS.get(name)
        experiment = sweep.experiment if sweep else name
        own = [record for record in records if record.experiment == experiment]
        for value in sweep.values if sweep else (None,):
            setting = sweep.setting if sweep else None
            chosen = [r for r in own if not setting or r.settings.values()[setting] == value]
            groups = [g for g in _groups(chosen, setting) if g.variant.is_as_published]
            if not sweep:
                groups = [g for g in groups if g.variant.profile == "paper"] or groups
            is_row = not setting or EXPERIMENTS[experiment].values()[setting] == value
            for group in groups or [_Group(experiment, Variant("", ()), ())]:
                # Two sweeps share the runs with published settings, which are listed once.
                seen = tuple(map(id, group.records)) or (name, value)
                label = f"{setting}={value}; " if setting else ""
                rows.setdefault(seen, _row(group, is_row, label, value if label else None))
    return pd.DataFrame(list(rows.values()))


def by_settings(records: Iterable[Record]) -> pd.DataFrame:
    """The same columns, a row for every setting among some runs, whatever they are."""
    return pd.DataFrame([_row(group, True, "", None) for group in _groups(records)])


def _row(group: _Group, is_row: bool, label: str, value: Any) -> dict[str, Any]:
    published = benchmark.row(group.experiment) if is_row else None
    own = group.records
    settings = own[0].settings if own else EXPERIMENTS[group.experiment]
    known = (datasets.COPIES.get(record.data_fingerprint) for record in own)
    row: dict[str, Any] = {
        "experiment": group.experiment,
        "section": published.section if published else None,
        "pruned": published.pruned if published else None,
        "sync_period": value if label.startswith("sync_period") else settings.method.period,
        "published": published.accuracy if published else None,
        "settings": f"{label}{group.settings()}" if own else f"{label}{NOT_YET}",
        "profile": group.variant.profile,
        "seeds": len(own),
        "permutations": sum(record.is_permutation for record in own),
        "between": sum(map(_is_best_between, own)),
        "data": "; ".join(sorted({copy.difference for copy in known if copy is not None})),
    }
    for name in ACCURACIES:
        summary = _summary(getattr(record, name) for record in own)
        row[name], row[f"{name}_std"] = (summary.mean, summary.std) if summary else (None, None)
    return row


def _summary(numbers: Iterable[float | None]) -> Summary | None:
    known = [number for number in numbers if number is not None]
    return summarise(known) if known else None


def _is_best_between(record: Record) -> bool:
    synchronised = [e.accuracy for e in record.evaluations if e.since_sync == 0]
    return (record.published_protocol or 0) > max([record.final or 0, *synchronised])


def in_percent(found: pd.DataFrame) -> pd.DataFrame:
    """A table as it is shown: accuracies in percent, mean ± standard deviation over seeds.

    A star marks a best accuracy between two synchronisations, where no network is a permutation.
    """

    def accuracy(row: pd.Series, name: str) -> str:
        if pd.isna(row[name]):
            return ""
        summary = Summary(row[name], row[f"{name}_std"], 0, row["seeds"])
        return f"{summary} *" if name == "published_protocol" and row["between"] else str(summary)

    def text(value: Any, form: str = "{}") -> str:
        return "" if pd.isna(value) else form.format(value)

    shown = pd.DataFrame(
        {
            "experiment": found["experiment"],
            "section": found["section"].map(text),
            "p, %": found["pruned"].map(lambda value: text(value, "{:.0f}")),
            "k": found["sync_period"].map(lambda k: "Adam" if pd.isna(k) else f"{k:.0f}"),
            "published": found["published"].map(lambda value: text(value, "{:.2%}").rstrip("%")),
        }
    )
    for name, title in ACCURACIES.items():
        shown[title] = found.apply(accuracy, axis=1, args=(name,))
    return shown.assign(seeds=found["seeds"], settings=found["settings"])


def notes(found: pd.DataFrame) -> list[str]:
    """A sentence for each copy of a dataset that differs from the official one."""
    copies = found[found["data"] != ""].groupby("data", sort=False)["experiment"].unique()
    return [f"Data of {', '.join(own)}: {copy}." for copy, own in copies.items()]


def as_text(found: pd.DataFrame) -> str:
    """Aligned columns, and notes below."""
    return "\n\n".join([plain(in_percent(found)), *notes(found)])


def plain(shown: pd.DataFrame) -> str:
    """A frame of text with each column as wide as its longest cell."""
    return shown.to_markdown(index=False, tablefmt="plain", disable_numparse=True)


def as_markdown(found: pd.DataFrame) -> str:
    """The same as a Markdown table."""
    shown = in_percent(found).to_markdown(index=False, disable_numparse=True)
    return "\n\n".join([shown, *notes(found)])


def as_json(found: pd.DataFrame) -> str:
    """All numbers, accuracies from 0 to 1."""
    return json.dumps(json.loads(found.to_json(orient="records")), indent=1)


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}
"""How the command line writes a table."""


def show(records: Iterable[Record], names: Sequence[str] = ()) -> Any:
    """The table as a notebook shows it; the arguments are those of `table`.

    Examples:
        >>> show([], ["conv7"])
        <IPython.core.display.Markdown object>
    """
    from IPython.display import Markdown

    return Markdown(as_markdown(table(records, names)))


def alike(
    records: Iterable[Record], experiment: str, setting: str | None = None
) -> dict[str, list[Record]]:
    """The runs of an experiment that train what is published, those with equal settings together.

    They are named by what tells them apart, as in "paper" or "short, mixed_bfloat16"; `setting` may
    have any value.
    """
    own = [record for record in records if record.experiment == experiment]
    groups = [g for g in _groups(own, setting) if g.variant.is_as_published]
    found = {}
    for group in groups:
        rivals = [g for g in groups if g.variant.profile == group.variant.profile]
        common = set.intersection(*(set(rival.variant.differing) for rival in rivals))
        words = [
            value if isinstance(value, str) else f"{name}={value}"
            for name, value in group.variant.differing
            if (name, value) not in common
        ]
        if len({frozenset(rival.precisions) for rival in rivals}) > 1:
            words += sorted(group.precisions)
        found[", ".join([group.variant.profile, *words])] = list(group.records)
    return found


def by_epoch(records: Iterable[Record]) -> dict[float, list[float]]:
    """Test accuracies of synchronised networks, and of Adam's, by the epochs gone through."""
    series: dict[float, list[float]] = {}
    for record in records:
        steps = benchmark.steps(record.settings) // record.settings.schedule.epochs
        for evaluation in record.evaluations:
            if evaluation.since_sync == 0:
                series.setdefault(evaluation.step / steps, []).append(evaluation.accuracy)
    return series


def by_setting(records: Iterable[Record], setting: str) -> dict[Any, list[float]]:
    """Accuracies of the networks at the end, by the value of a setting."""
    series: dict[Any, list[float]] = {}
    for record in records:
        series.setdefault(record.settings.values()[setting], []).append(record.final or 0.0)
    return series
