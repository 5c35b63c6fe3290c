"""Sphinx extension that shows a figure of a notebook on another page.

The directive `notebook-figure` takes the notebook and the name of the figure, as its cell has it in
the metadata. It shows the picture that was produced when the notebook was run:

    ```{notebook-figure} how_laperm_works fig-moving
    A caption.
    ```
"""

import base64
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class NotebookFigure(SphinxDirective):
    """A picture out of a notebook, in the page itself."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The figure."""
        notebook, name = self.arguments
        path = Path(self.env.srcdir, "notebooks", f"{notebook}.ipynb")
        self.env.note_dependency(str(path))
        for cell in nbformat.read(path, as_version=4).cells:
            about = cell.metadata.get("mystnb", {})
            if about.get("figure", {}).get("name") == name:
                return [self._figure(picture(cell), about["image"]["alt"])]
        raise self.error(f"The notebook {notebook} has no figure {name}.")

    def _figure(self, data: bytes, alt: str) -> nodes.figure:
        uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        figure = nodes.figure("", nodes.image(uri=uri, alt=alt, candidates={"?": uri}))
        caption = nodes.caption()
        self.set_source_info(caption)
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        for paragraph in parsed.findall(nodes.paragraph):
            caption.extend(paragraph.children)
        figure += caption
        return figure


def picture(cell: Any) -> bytes:
    """The first picture that a cell has produced."""
    found = (output.get("data", {}).get("image/png") for output in cell.outputs)
    return base64.b64decode(next(data for data in found if data))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_directive("notebook-figure", NotebookFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
