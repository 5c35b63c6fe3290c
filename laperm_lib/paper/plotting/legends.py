"""Legends of figures that Bokeh draws: a click on a name hides what has it."""

import math
from typing import Any, TypeAlias

import bokeh.plotting
import numpy as np
from bokeh.models.annotations import Legend, LegendItem
from bokeh.models.ranges import Range1d
from bokeh.models.renderers import GlyphRenderer
from bokeh.models.sources import ColumnDataSource

LABEL_SIZE = "12px"

_ROW = 26  # pixels
# Letters. A legend wraps nothing, and two such names are what a phone has room for in a row.
_SHORT_NAME = 18

Renderers: TypeAlias = "list[GlyphRenderer[Any]]"
Named: TypeAlias = dict[str, Renderers]
"""What a legend tells of, which is all that is drawn under a name."""


def panel_of(drawn: list[Named]) -> bokeh.plotting.figure:
    """A panel of its own for one legend of what is in any of them."""
    panel = bokeh.plotting.figure(
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        tools="",
        toolbar_location=None,
        sizing_mode="stretch_width",
        outline_line_color=None,
        min_border=0,
    )
    panel.axis.visible = panel.grid.visible = False
    shared: Named = {}
    for named in drawn:
        for label, renderers in named.items():
            if label not in shared:
                # A legend shows only what its own panel has: the same look, of nothing.
                glyph = renderers[0].glyph.clone()
                nowhere = ColumnDataSource({"x": [np.nan], "y": [np.nan]})
                glyph.update(x="x", y="y")
                shared[label] = [panel.add_glyph(nowhere, glyph)]
            shared[label].extend(renderers)
    panel.height = height_of(shared)
    panel.add_layout(legend_of(shared), "center")
    return panel


def legend_of(named: Named) -> Legend:
    """What is drawn, by name; a click on a name hides it."""
    items = [LegendItem(label=label, renderers=drawn) for label, drawn in named.items()]
    return Legend(
        items=items,
        click_policy="hide",
        orientation="horizontal",
        ncols=_columns(named),
        location="center",
        label_text_font_size=LABEL_SIZE,
    )


def _columns(named: Named) -> int:
    return 2 if max(map(len, named)) <= _SHORT_NAME else 1


def height_of(named: Named) -> int:
    """In pixels, with a row's for its margins."""
    return _ROW * (1 + math.ceil(len(named) / _columns(named)))
