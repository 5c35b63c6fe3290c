"""Sphinx extension with the network that trains in the reader's browser.

The directive `playground` puts it on a page: its controls and pictures are in `playground.html`
beside this file, what they do in `_static/playground*.js`. Jupyter Book puts every script and style
sheet of `_static` on every page; those of the playground are taken off the others. The images are
scikit-learn's digits, written to `_static/digits.js` when the book is built.
"""

from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from sklearn.datasets import load_digits
from sphinx.util.docutils import SphinxDirective

MARKUP = Path(__file__).with_suffix(".html")
IMAGES, STYLE = "digits.js", "playground.css"
SCRIPTS = ("playground_network.js", "playground.js")


class Playground(SphinxDirective):
    """The controls and pictures."""

    def run(self) -> list[nodes.Node]:
        """They are HTML; other builders leave them out."""
        self.env.note_dependency(str(MARKUP))
        self.env.metadata[self.env.docname]["playground"] = "here"
        return [nodes.raw("", MARKUP.read_text(encoding="utf-8"), format="html")]


def images() -> str:
    """A script with the digits: the grey levels of each, 0 to 16 in base 17, and what it shows."""
    digits = load_digits()
    rows = np.column_stack([digits.data, digits.target]).astype(int)
    letters = np.array(list("0123456789abcdefg"))
    return f'"use strict";\nconst DIGITS = "{"".join(letters[rows].ravel())}";\n'


def take_off(app: Any, config: Any) -> None:
    """Take scripts and style off the list of what every page loads."""
    config.html_js_files = [each for each in config.html_js_files if each not in SCRIPTS]
    config.html_css_files = [each for each in config.html_css_files if each != STYLE]


def put_on(app: Any, page: str, template: str, context: Any, doctree: Any) -> None:
    """Let the page with the playground load them."""
    if "playground" in app.env.metadata.get(page, {}):
        app.add_css_file(STYLE)
        for script in (IMAGES, *SCRIPTS):
            app.add_js_file(script, loading_method="defer")


def write_images(app: Any, exception: Exception | None) -> None:
    """Write the images beside the script of a finished HTML build."""
    if exception is None and app.builder.format == "html":
        Path(app.outdir, "_static", IMAGES).write_text(images(), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_directive("playground", Playground)
    app.connect("config-inited", take_off)
    app.connect("html-page-context", put_on)
    app.connect("build-finished", write_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
