"""Sphinx extension that makes the built book readable without a network.

MathJax 3.2.2 comes from the Python package sphinx-mathjax-offline, whose files equal those of the
npm package mathjax@3.2.2 byte for byte. They are copied to mathjax/ beside the pages: Jupyter Book
loads every script that it finds in the source folder _static, and would load MathJax twice.

Bokeh, which draws the interactive figures, is copied to bokeh/ likewise, out of its own Python
package; only pages with such a figure load it.

Jupyter Book also puts Thebe on every page, which runs cells on a server elsewhere. It is taken off.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import bokeh.util.paths
from sphinx.errors import ExtensionError

# What the pages use: TeX input, HTML output with its fonts, speech for screen readers.
PARTS = ("tex-chtml.js", "input/tex/extensions", "output/chtml", "a11y", "sre")


def copy_mathjax(app: Any, exception: Exception | None) -> None:
    """Copy MathJax beside the pages of a finished HTML build."""
    if exception is not None or app.builder.format != "html":
        return
    # The hyphens in the package's name rule out an import statement.
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError("MathJax is missing: pip install sphinx-mathjax-offline==0.0.2")
    source = Path(package.submodule_search_locations[0], "static", "mathjax")
    for part in PARTS:
        target = Path(app.outdir, "mathjax", part)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target)


def copy_bokeh(app: Any, exception: Exception | None) -> None:
    """Copy Bokeh's scripts beside the pages of a finished HTML build."""
    if exception is not None or app.builder.format != "html":
        return
    target = Path(app.outdir, "bokeh")
    target.mkdir(exist_ok=True)
    for name in ("bokeh.min.js", "bokeh-widgets.min.js"):
        shutil.copy2(bokeh.util.paths.static_path() / "js" / name, target)


def remove_thebe(app: Any, config: Any) -> None:
    """Take Thebe off: its script, added twice, is an error in the browser's console."""
    for listeners in app.events.listeners.values():
        listeners[:] = [each for each in listeners if each.handler.__module__ != "sphinx_thebe"]
    # The style sheet was asked for before, and its listener is not there to bring it.
    styles = app.registry.css_files
    styles[:] = [each for each in styles if each[0] != "sphinx-thebe.css"]


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    # Relative to _static, where Sphinx expects it.
    app.config.mathjax_path = "../mathjax/tex-chtml.js"
    app.connect("config-inited", remove_thebe)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", copy_bokeh)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
