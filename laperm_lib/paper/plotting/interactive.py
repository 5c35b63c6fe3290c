"""Figures that answer to the mouse: hover, zoom, and a click on the legend that hides a curve.

A Matplotlib figure of lines and bands is drawn again by Bokeh. What a notebook keeps is the picture
and, beside it, Bokeh's description as JSON, which runs no code. The pages of the book bring Bokeh
along, put the interactive figure into the picture's place and need no network for it. Anywhere else
(on GitHub, without JavaScript, in print) the picture stays.
"""

import base64
import html
import io
import json
from typing import Any

from bokeh.embed import json_item
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from laperm_lib.paper.plotting.redrawn import redrawn

_DOTS_PER_INCH = 120


class Interactive:
    """A figure as Jupyter shows it: a picture that a page of the book makes interactive.

    Args:
        figure: of lines, bands and levels, as the functions of `laperm_lib.paper.plotting` draw them. It
            is closed, so that it is not shown twice.
        alt: what the picture shows, for those who do not see it.

    Raises:
        ValueError: without `alt`, or for a figure with anything else in it; names what it is.

    Examples:
        >>> figure, ax = plt.subplots()
        >>> lines = ax.plot([1, 2, 3], [0.5, 0.7, 0.8], label="LaPerm")
        >>> shown = Interactive(figure, alt="One rising line.")
        >>> "One rising line." in shown._repr_html_()
        True
    """

    def __init__(self, figure: Figure, *, alt: str) -> None:
        if not alt.strip():
            raise ValueError("alt is empty: say what the picture shows.")
        self.alt = alt
        self.item: dict[str, Any] = json.loads(json.dumps(json_item(redrawn(figure))))
        """Bokeh's description of the figure, as `Bokeh.embed.embed_item` takes it."""
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
        self.png = stream.getvalue()
        """The picture."""
        plt.close(figure)

    def __repr__(self) -> str:
        return f"Interactive(alt={self.alt!r})"

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.png).decode()
        # "</script" would end the element, and "<!--<script" keep it from ending.
        item = json.dumps(self.item, separators=(",", ":")).replace("<", "\\u003c")
        return (
            '<div class="laperm-interactive">'
            f'<img src="data:image/png;base64,{picture}" alt="{html.escape(self.alt)}">'
            f'<script type="application/json">{item}</script></div>'
        )
