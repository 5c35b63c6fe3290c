"""Sphinx extension that says of each notebook how it was run, and how to run it again.

On the page of a notebook it puts the papermill command, with the parameters of this very run, and a
link to the notebook. The directive `notebook-status` makes a table of all of them. What it knows is
what papermill has written into the executed notebooks; `make book` stops at one that fails.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from docutils import nodes
from results_table import table
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

FOLDER = "notebooks/"
NOT_RUN = "committed outputs"
HEAD = ("notebook", "code cells", "parameters", "run time, s", "finished, UTC", "result")


@dataclass(frozen=True)
class Execution:
    """How a notebook was run.

    Args:
        name: of the notebook, without a suffix.
        parameters: the values of its `parameters` cell, or those given for this run, as text.
        code_cells: how many there are.
        seconds: the wall time; None if it was not run for this build.
        finished: date and time of its end, UTC; "" if it was not run for this build.
        error: whether it has ended with one; None if it was not run for this build.
    """

    name: str
    parameters: dict[str, str]
    code_cells: int
    seconds: float | None
    finished: str
    error: bool | None

    @property
    def command(self) -> str:
        """The command that runs it so again, from the root of the repository."""
        words = ["papermill", f"{FOLDER}{self.name}.ipynb", "out.ipynb", "--cwd", "notebooks"]
        for name, value in self.parameters.items():
            words += ["-p", name, value]
        return shlex.join(words)

    @property
    def result(self) -> str:
        """What came of it, in words."""
        return {None: NOT_RUN, True: "failed", False: "ran to its end"}[self.error]


def read(path: Path) -> Execution:
    """Read how a notebook was run.

    Args:
        path: the notebook, executed by papermill or not.
    """
    notebook = nbformat.read(path, as_version=4)
    run = notebook.metadata.get("papermill", {})
    known = papermill.inspect_notebook(str(path))
    values = {name: each["default"].strip("\"'") for name, each in known.items()}
    values |= {name: str(value) for name, value in run.get("parameters", {}).items()}
    return Execution(
        name=path.stem,
        parameters=values,
        code_cells=sum(cell.cell_type == "code" for cell in notebook.cells),
        seconds=run.get("duration"),
        finished=run.get("end_time", "")[:16].replace("T", " "),
        error=bool(run["exception"]) if "exception" in run else None,
    )


def add_command(app: Any, doctree: nodes.document) -> None:
    """Put the command behind the title of a notebook's page."""
    name = app.env.docname
    if not name.startswith(FOLDER) or app.builder.format != "html":
        return
    title = next(iter(doctree.findall(nodes.title)))
    path = Path(app.env.doc2path(name))
    link = nodes.reference("", "Download it", refuri=f"../_sources/{name}.ipynb")
    box = nodes.admonition(classes=["dropdown"])
    box += nodes.title("", "Run this notebook yourself")
    box += nodes.paragraph("", "", link, nodes.Text(", or run it in a checkout of the repository:"))
    box += nodes.literal_block("", read(path).command, language="bash")
    box += nodes.paragraph("", "Another profile, data set or seed is another value behind -p.")
    needs = nodes.paragraph("", "A downloaded notebook needs ")
    needs += nodes.literal("", 'pip install ".[paper,tensorflow]" jupyterlab papermill')
    needs += [nodes.Text(" in a checkout, and "), nodes.literal("", "LAPERM_PRETRAINED_DIR")]
    needs += nodes.Text(" set to the folder pretrained there: ")
    needs += nodes.reference("", "how", refuri="../intro.html#a-notebook-alone")
    box += needs
    title.parent.insert(title.parent.index(title) + 1, box)


class NotebookStatus(SphinxDirective):
    """A row per notebook of the book."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = []
        for docname in sorted(each for each in self.env.found_docs if each.startswith(FOLDER)):
            path = Path(self.env.doc2path(docname))
            self.env.note_dependency(str(path))
            found = read(path)
            page = addnodes.pending_xref(
                "", nodes.Text(found.name), refdomain="std", reftype="doc", refexplicit=True,
                reftarget=f"/{docname}", refdoc=self.env.docname, refwarn=True,
            )  # fmt: skip
            rows.append(
                (
                    page,
                    str(found.code_cells),
                    ", ".join(f"{name}={value}" for name, value in found.parameters.items()),
                    "" if found.seconds is None else f"{found.seconds:.0f}",
                    found.finished,
                    found.result,
                )
            )
        return [table(HEAD, rows)]


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("doctree-read", add_command)
    app.add_directive("notebook-status", NotebookStatus)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
