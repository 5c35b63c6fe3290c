"""Sphinx extension: what of others a built page brings along, under which licence, with its text.

The texts are those of the installed packages that the files come out of, copied to licences/ beside
the pages.
"""

import importlib.metadata
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from results_table import table
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


class Part(NamedTuple):
    """Something of others in the pages.

    Args:
        name: what it is.
        licence: its SPDX identifier.
        files: where its files are in the built book, as patterns.
        package: the installed package with the text of its licence.
    """

    name: str
    licence: str
    files: tuple[str, ...]
    package: str


PARTS = (
    # The package of MathJax's files has no text; Requests is under the same licence, word for word.
    Part("MathJax", "Apache-2.0", ("mathjax/**/*",), "requests"),
    Part("Bokeh and what is built into it", "BSD-3-Clause", ("bokeh/*",), "bokeh"),
    Part(
        "Sphinx Book Theme",
        "BSD-3-Clause",
        (
            *("_static/styles/sphinx-book-theme.*", "_static/scripts/sphinx-book-theme.*"),
            *("_static/sbt-webpack-macros.html", "_static/images/*", "_static/locales/**/*"),
        ),
        "sphinx-book-theme",
    ),
    Part(
        "PyData Sphinx Theme, with Bootstrap (MIT) and Font Awesome Free (MIT, OFL-1.1, CC-BY-4.0)",
        "BSD-3-Clause",
        (
            *("_static/styles/pydata-sphinx-theme.*", "_static/scripts/pydata-sphinx-theme.*"),
            *("_static/webpack-macros.html", "_static/styles/*", "_static/vendor/fontawesome/**/*"),
            *("_static/scripts/bootstrap.*", "_static/scripts/fontawesome.*"),
        ),
        "pydata-sphinx-theme",
    ),
    Part(
        "Sphinx",
        "BSD-2-Clause",
        (
            *("_static/basic.css", "_static/doctools.js", "_static/documentation_options.js"),
            *("_static/language_data.js", "_static/searchtools.js", "_static/sphinx_highlight.js"),
            *("_static/file.png", "_static/minus.png", "_static/plus.png", "_static/pygments.css"),
        ),
        "sphinx",
    ),
    Part(
        "sphinx-copybutton, with clipboard.js (MIT)",
        "MIT",
        (
            *("_static/copybutton*", "_static/copy-button.svg", "_static/check-solid.svg"),
            "_static/clipboard.min.js",
        ),
        "sphinx-copybutton",
    ),
    Part("sphinx-togglebutton", "MIT", ("_static/togglebutton.*",), "sphinx-togglebutton"),
    Part(
        "sphinx-design",
        "MIT",
        ("_static/sphinx-design.*", "_static/design-tabs.js"),
        "sphinx-design",
    ),
    Part("MyST-NB", "BSD-3-Clause", ("_static/mystnb.*",), "myst-nb"),
    Part(
        "Handwritten digits, by E. Alpaydin and C. Kaynak (UCI), as in scikit-learn",
        "BSD-3-Clause",
        ("_static/digits.js",),
        "scikit-learn",
    ),
)
"""What is not ours."""

OURS = ("_static/book.css", "_static/favicon.svg", "_static/interactive.js", "_static/playground*")
"""What of the files beside the pages is."""


def text_of(package: str) -> Path:
    """The file with the licence of an installed package.

    Args:
        package: its name.

    Raises:
        ExtensionError: if it has none.
    """
    files: Iterable[Any] = importlib.metadata.distribution(package).files or ()
    for file in files:
        if file.name.startswith(("LICENSE", "COPYING")) and ".dist-info" in file.parts[0]:
            return Path(file.locate())
    raise ExtensionError(f"The package {package} comes without the text of its licence.")


def address(part: Part) -> str:
    """Where the text of a part's licence is, seen from the front page."""
    return f"licences/{nodes.make_id(part.name.partition(',')[0])}.txt"


class ThirdParty(SphinxDirective):
    """A row per part."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        head = ("part", "licence", "its text")
        rows = []
        for part in PARTS:
            link = nodes.reference("", Path(address(part)).name, refuri=address(part))
            rows.append((part.name, part.licence, link))
        return [table(head, rows)]


def copy_texts(app: Any, exception: Exception | None) -> None:
    """Copy the texts beside the pages of a finished HTML build."""
    if exception is not None or app.builder.format != "html":
        return
    for part in PARTS:
        target = Path(app.outdir, address(part))
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(text_of(part.package), target)


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_directive("third-party", ThirdParty)
    app.connect("build-finished", copy_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
