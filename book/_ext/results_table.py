"""Sphinx extension with the directive `results-at-a-glance`: published beside ours, from records.

Nothing in the table is typed: the published numbers are those of `laperm_lib.paper.benchmark`, ours
come from the records in the folder `pretrained`, as `python -m laperm_lib table` shows them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from laperm_lib.paper import benchmark, manifest, runs
from laperm_lib.paper import table as results

HEAD = ("network", "section", "published, %", "ours, %", "trained", "permutations")
_LENGTHS = {"paper": "in full", "short": "a tenth as long"}


class ResultsAtAGlance(SphinxDirective):
    """A row per row of the paper's table."""

    def run(self) -> list[nodes.Node]:
        """The table, and below it what has to be known of the data."""
        folder = manifest.default_folder()
        for path in sorted(folder.glob("*.json")):
            self.env.note_dependency(str(path))
        found = at_a_glance(folder)
        notes = [nodes.paragraph("", note) for note in results.notes(found)]
        return [table(HEAD, cells(found)), *notes]


def at_a_glance(folder: Path) -> pd.DataFrame:
    """The rows of the paper with the records of a folder: of several settings, that of most seeds.

    Args:
        folder: with JSON files of records.
    """
    states = runs.states(folder / "no runs", folder)
    records = [state.record for state in states if state.record is not None]
    found = results.table(records, [row.experiment for row in benchmark.ROWS])
    return found.loc[found.groupby("experiment", sort=False)["seeds"].idxmax()]


def cells(found: pd.DataFrame) -> Iterable[Sequence[str]]:
    """The texts of the rows, accuracies in percent.

    Args:
        found: as `laperm_lib.paper.table.table` gives it.
    """
    shown = results.in_percent(found)
    finals = shown["final"].str.replace(" ", "\N{NO-BREAK SPACE}")  # no line ends within a number
    trained = found["profile"].map(_LENGTHS).fillna(results.NOT_YET)
    counts = [
        f"{row.permutations} of {row.seeds}" if row.seeds else "" for row in found.itertuples()
    ]
    columns = (shown["experiment"], shown["section"], shown["published"], finals, trained, counts)
    return zip(*columns, strict=True)


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
