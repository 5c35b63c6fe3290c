"""The table as text, Markdown or JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from laperm_lib.paper.experiments import catalogue
from laperm_lib.paper.experiments.records import Summary
from laperm_lib.paper.experiments.results import Line

NOT_YET = "not yet reproduced"
BETWEEN = " *"
"""The mark of a best accuracy between two synchronisations, where no network is a permutation."""

_HEAD = (
    *("experiment", "section", "p, %", "k", "published"),
    *("final", "re-estimated", "selected", "published protocol", "seeds", "settings"),
)


def as_text(lines: Iterable[Line]) -> str:
    """Aligned columns, accuracies in percent: the mean, ± the standard deviation over seeds.

    Below them stands of which data there was only a copy, if it was so.

    `BETWEEN` stands behind an accuracy by the published protocol that is, for a run or more, not
    that of a synchronised network.

    Examples:
        >>> print(as_text([Line("f1", "5.5", 250, 0.8546)]))
        experiment  section  p, %  k    published ... settings
        f1          5.5      40    250  85.46 ... not yet reproduced
    """
    lines = list(lines)
    return "\n\n".join([columns([_HEAD, *map(_cells, lines)]), *notes(lines)])


def as_markdown(lines: Iterable[Line]) -> str:
    """The same as a Markdown table.

    Examples:
        >>> print(as_markdown([Line("f1", "5.5", 250, 0.8546)]))
        | experiment | section | ... | settings |
        |---|---|...|---|
        | f1 | 5.5 | ... | not yet reproduced |
    """
    lines = list(lines)
    head, *rest = [_HEAD, *map(_cells, lines)]
    rows = "\n".join(
        "|" + "|".join(row) + "|"
        for row in (
            [f" {cell} " for cell in head],
            ["---"] * len(head),
            *([f" {cell} " for cell in cells] for cells in rest),
        )
    )
    return "\n\n".join([rows, *notes(lines)])


def as_json(lines: Iterable[Line]) -> str:
    """All that the lines hold, accuracies from 0 to 1.

    Examples:
        >>> json.loads(as_json([Line("f1", "5.5", 250, 0.8546)]))[0]["seeds"]
        0
    """
    return json.dumps([asdict(line) for line in lines], indent=1)


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}
"""How the table can be written."""


def notes(lines: Iterable[Line]) -> list[str]:
    """What a reader has to know of the data of some lines: a sentence for each copy.

    Examples:
        >>> notes([Line("conv2", "5.2", 1000, 0.7821, copies=("in another order",))])
        ['Data of conv2: in another order.']
    """
    of: dict[str, list[str]] = {}
    for line in lines:
        for copy in line.copies:
            of.setdefault(copy, []).append(line.experiment)
    return [f"Data of {', '.join(dict.fromkeys(own))}: {copy}." for copy, own in of.items()]


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text with each column as wide as its longest cell.

    Examples:
        >>> print(columns([["k", "final"], ["1200", "99.72"]]))
        k     final
        1200  99.72
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(line: Line) -> tuple[str, ...]:
    row = catalogue.row(line.experiment)
    return (
        line.experiment,
        line.section or "",
        str(row.pruned) if row and line.section else "",
        str(line.sync_period or "Adam"),
        "" if line.published is None else f"{100 * line.published:.2f}",
        *map(_percent, (line.final, line.final_reestimated)),
        _percent(line.selected),
        _percent(line.published_protocol) + (BETWEEN if line.between else ""),
        str(line.seeds),
        line.variant if line.seeds else ", ".join(filter(None, [line.variant, NOT_YET])),
    )


def _percent(summary: Summary | None) -> str:
    if summary is None:
        return ""
    spread = f" ± {100 * summary.spread:.2f}" if summary.runs > 1 else ""
    return f"{100 * summary.mean:.2f}{spread}"
