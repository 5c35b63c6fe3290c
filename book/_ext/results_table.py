"""Sphinx extension with the directive `results-at-a-glance`: published beside ours, from records.

Nothing in the table is typed: the published numbers are those of
`laperm_lib.paper.experiments.catalogue`, ours come from the records in the folder `pretrained`, as
`python -m laperm_lib table` shows them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from laperm_lib.paper import manifest
from laperm_lib.paper.experiments import catalogue, formats, results
from laperm_lib.paper.experiments.records import Summary
from laperm_lib.paper.experiments.results import Line

HEAD = ("network", "section", "published, %", "ours, %", "trained", "permutations")
_LENGTHS = {"paper": "in full", "short": "a tenth as long"}


class ResultsAtAGlance(SphinxDirective):
    """A row per row of the paper's table."""

    def run(self) -> list[nodes.Node]:
        """The table, and below it what has to be known of the data."""
        folder = manifest.default_folder()
        for path in sorted(folder.glob("*.json")):
            self.env.note_dependency(str(path))
        lines = at_a_glance(folder)
        notes = [nodes.paragraph("", note) for note in formats.notes(lines)]
        return [table(HEAD, map(cells, lines)), *notes]


def at_a_glance(folder: Path) -> list[Line]:
    """The rows of the paper with the records of a folder: of several settings, that of most seeds.

    Args:
        folder: with JSON files of records.
    """
    states = results.states(folder / "no runs", folder)
    records = [state.record for state in states if state.record is not None]
    chosen: dict[str, Line] = {}
    for line in results.table(records, [row.experiment for row in catalogue.ROWS]):
        known = chosen.setdefault(line.experiment, line)
        if line.seeds > known.seeds:
            chosen[line.experiment] = line
    return list(chosen.values())


def cells(line: Line) -> tuple[str, ...]:
    """The texts of a row, accuracies in percent.

    Args:
        line: as `laperm_lib.paper.experiments.results.table` gives it.
    """
    return (
        line.experiment,
        line.section or "",
        "" if line.published is None else f"{100 * line.published:.2f}",
        "" if line.final is None else _percent(line.final),
        _LENGTHS[line.profile] if line.seeds else formats.NOT_YET,
        f"{line.permutations} of {line.seeds}" if line.seeds else "",
    )


def _percent(summary: Summary) -> str:
    # No line ends within the number.
    spread = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * summary.spread:.2f}"
    spread = spread if summary.runs > 1 else ""
    return f"{100 * summary.mean:.2f}{spread}"


def table(head: Sequence[str], rows: Iterable[Sequence[str | nodes.Node]]) -> nodes.table:
    """A docutils table of texts or inline nodes.

    Args:
        head: the titles of the columns.
        rows: a sequence each of as many cells.
    """
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["compact"])


def _row(cells: Sequence[str | nodes.Node]) -> nodes.row:
    inline = (cell if isinstance(cell, nodes.Node) else nodes.Text(cell) for cell in cells)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", each)) for each in inline))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_directive("results-at-a-glance", ResultsAtAGlance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
