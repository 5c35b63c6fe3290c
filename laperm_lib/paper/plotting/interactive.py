"""Interactive figures: hover, zoom, and a click on the legend that hides a curve.

Bokeh draws a Matplotlib figure of lines and bands again. A notebook stores the picture, for LaTeX
and the like, and beside it HTML with the picture and Bokeh's description as JSON, which runs no
code. The pages of the book, which contain Bokeh, put the interactive figure in the picture's place,
without a network. Anywhere else (on GitHub, without JavaScript, in print) the picture stays.
"""

import base64
import html
import io
import json
import math
from typing import Any, TypeAlias

import bokeh.plotting
import numpy as np
from bokeh.embed import json_item
from bokeh.layouts import column, gridplot
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Label, Legend, LegendItem, Span
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from laperm_lib.paper.plotting._common import evenly_spaced, picture

_PICTURE_DPI, _BOKEH_DPI = 120, 80
_MAX_POINTS = 65  # of one line among many; a figure of hundreds would weigh megabytes
_FEW_TICKS = 3  # on the x axis of three panels in a row, which are narrow
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}
_NUMBER = "{0.[0000]}"  # Bokeh's number format
_LABEL_SIZE = "12px"
_LEGEND_ROW = 26  # pixels
# Letters. A legend does not wrap, and a phone has room for two such names in a row.
_SHORT_NAME = 18

Panel: TypeAlias = Any  # a figure of Bokeh's
Renderers: TypeAlias = list[Any]  # what Bokeh has drawn on it
Named: TypeAlias = dict[str, Renderers]
"""All that is drawn under each name of a legend."""


class Interactive:
    """A figure as Jupyter shows it: a picture that a page of the book makes interactive.

    Args:
        figure: of lines, error bars, bands, levels and words, as `training_curves`, `over_seeds`
            and `vector_profile` draw them. It is closed, so that it is not shown twice.
        alt: what the picture shows, for those who do not see it.

    Raises:
        ValueError: without `alt`, or for a figure with anything else in it; names what it is.

    Examples:
        >>> import matplotlib.pyplot as plt
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
        self.item: dict[str, Any] = json.loads(json.dumps(json_item(_bokeh_layout(figure))))
        """Bokeh's description of the figure, as `Bokeh.embed.embed_item` takes it."""
        stream = io.BytesIO()
        # A palette makes it a third of the size, and a notebook stores it twice.
        picture(figure, _PICTURE_DPI).quantize().save(stream, format="png", optimize=True)
        self.png = stream.getvalue()
        """The picture."""

    def __repr__(self) -> str:
        return f"Interactive(alt={self.alt!r})"

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        """The picture alone, for LaTeX and whatever else shows no HTML."""
        return self.png, {"alt": self.alt}

    def _repr_html_(self) -> str:
        png = base64.b64encode(self.png).decode()
        # "</script" would end the element, and "<!--<script" keep it from ending.
        item = json.dumps(self.item, separators=(",", ":")).replace("<", "\\u003c")
        return (
            '<div class="laperm-interactive">'
            f'<img src="data:image/png;base64,{png}" alt="{html.escape(self.alt)}">'
            f'<script type="application/json">{item}</script></div>'
        )


def _bokeh_layout(figure: Figure) -> Any:
    """All axes in their places, each with its lines, bands and legend."""
    drawn = {ax: _panel(ax) for ax in figure.axes if ax.get_visible() and ax.axison}
    places = {}
    for ax, (panel, _) in drawn.items():
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError("Axes outside of a grid cannot be shown interactively.")
        places[place.rowspan.start, place.colspan.start] = panel
        for other, (beside, _) in drawn.items():  # those that share an axis are moved together
            if ax.get_shared_x_axes().joined(ax, other):
                beside.x_range = panel.x_range
            if ax.get_shared_y_axes().joined(ax, other):
                beside.y_range = panel.y_range
    if not places:
        raise ValueError("The figure has no axes.")
    rows, columns = (sorted(set(starts)) for starts in zip(*places, strict=True))
    if len(columns) > 2:
        for panel in places.values():
            panel.xaxis[0].ticker.desired_num_ticks = _FEW_TICKS
    grid = [[places.get((row, start)) for start in columns] for row in rows]
    layout = gridplot(grid, sizing_mode="stretch_width", merge_tools=True)
    names = [named for _, named in drawn.values()]
    if figure.legends and any(names):
        # Not within the grid, where it would be only as wide as the panels without their numbers.
        return column(layout, _legend_panel(names), sizing_mode="stretch_width")
    return layout


def _panel(ax: Axes) -> tuple[Panel, Named]:
    """One axes with all that is on it, and what of it has a name."""
    inches = ax.get_window_extent().height / ax.figure.dpi
    panel: Panel = bokeh.plotting.figure(
        title=ax.get_title(),
        height=round((inches + 0.7) * _BOKEH_DPI),
        x_axis_label=ax.get_xlabel(),
        y_axis_label=ax.get_ylabel(),
        x_axis_type="log" if ax.get_xscale() == "log" else "linear",
        y_axis_type="log" if ax.get_yscale() == "log" else "linear",
        x_range=_range(*ax.get_xlim()),
        y_range=_range(*ax.get_ylim()),
        tools="pan,box_zoom,wheel_zoom,reset",
        toolbar_location="above",
    )
    panel.toolbar.logo = None
    panel.toolbar.autohide = True
    # The parts of an error bar have the label of the whole.
    labels = {part: str(bar.get_label()) for bar in ax.containers for part in bar.get_children()}
    named: Named = {}
    for artist in ax.get_children():
        label = labels.get(artist, str(artist.get_label()))
        label = "" if label.startswith("_") else label
        drawn = _draw(panel, ax, artist, label)
        if drawn and label:
            named.setdefault(label, []).extend(drawn)
    if ax.get_legend() is not None and named:
        legend, height = _legend(named)
        panel.add_layout(legend, "below")
        panel.height += height
    for axis, original in ((panel.xaxis[0], ax.xaxis), (panel.yaxis[0], ax.yaxis)):
        axis.axis_label_text_font_size = _LABEL_SIZE
        axis.minor_tick_line_color = None
        words = _words(original)
        if words:
            axis.ticker = FixedTicker(ticks=list(words))
            axis.major_label_overrides = words
    return panel, named


def _words(axis: Axis) -> dict[float, str]:
    """The labels of the ticks of an axis, if they were set by hand (`Axes.set_xticks`)."""
    formatter = axis.get_major_formatter()
    if not isinstance(formatter, FuncFormatter):
        return {}
    places = [float(place) for place in axis.get_majorticklocs()]
    return dict(zip(places, map(str, formatter.format_ticks(places)), strict=True))


def _draw(panel: Panel, ax: Axes, artist: Any, label: str) -> Renderers:
    """Draw what Matplotlib has drawn; nothing for frames, axes and legends."""
    match artist:
        case Line2D() if artist.get_transform() == ax.get_yaxis_transform():
            level = float(np.asarray(artist.get_ydata())[0])
            panel.add_layout(Span(location=level, dimension="width", **_look(artist)))
            # A span has no place in a legend; a line of no length has.
            return [panel.line([np.nan], [np.nan], **_look(artist))]
        case Line2D():
            return _line(panel, ax, artist, label)
        case LineCollection():
            return _lines(panel, ax, artist, label)
        case PolyCollection():
            colour, alpha = _colour(artist.get_facecolor()[0])
            corners = [np.asarray(path.vertices).T for path in artist.get_paths()]
            return [panel.patch(x, y, color=colour, alpha=alpha, line_width=0) for x, y in corners]
        case _ if artist in (ax.patch, ax.xaxis, ax.yaxis, ax.get_legend(), *ax.spines.values()):
            pass
        case Text():
            if artist.get_text() and artist is not ax.title:
                panel.add_layout(_text(ax, artist))
        case _:
            raise ValueError(f"A {type(artist).__name__} cannot be shown interactively.")
    return []


def _line(panel: Panel, ax: Axes, line: Line2D, label: str) -> Renderers:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    source = ColumnDataSource({"x": x, "y": y})
    said = f"@x{_NUMBER}"
    words = _words(ax.xaxis)
    if words and set(x) <= set(words):
        source.data["word"] = [words[place] for place in x]
        said = "@word"
    drawn: Renderers = []
    look = _look(line)
    if line.get_linestyle() in _DASHES:
        drawn.append(panel.line("x", "y", source=source, **look))
    marker = line.get_marker()
    # The dash that ends an error bar is left out: Bokeh's bars are clear without it.
    is_cap = marker == "_" and any(line in bar.get_children() for bar in ax.containers)
    if marker not in (None, "None", "") and not is_cap:
        like: Any = {"color": look["line_color"], "alpha": look["line_alpha"]}
        like |= {"size": line.get_markersize(), "line_width": line.get_markeredgewidth()}
        kind = "dash" if marker == "_" else "circle"
        drawn.append(panel.scatter("x", "y", source=source, marker=kind, **like))
    if drawn:
        _add_hover(panel, ax, drawn, label, x=said, y=f"@y{_NUMBER}")
    return drawn


def _lines(panel: Panel, ax: Axes, lines: LineCollection, label: str) -> Renderers:
    """Many lines of one look; a long one at evenly spaced points."""
    segments = [np.asarray(segment, dtype=float) for segment in lines.get_segments()]
    if not segments:
        return []
    thinned = [segment[evenly_spaced(len(segment), _MAX_POINTS)].T for segment in segments]
    colour, alpha = _colour(lines.get_colors()[0])
    width = float(np.atleast_1d(lines.get_linewidth())[0])
    x, y = (list(values) for values in zip(*thinned, strict=True))
    drawn: Renderers = [panel.multi_line(x, y, color=colour, alpha=alpha, line_width=width)]
    if not any(lines in bar.get_children() for bar in ax.containers):  # no error bars
        _add_hover(panel, ax, drawn, label, x=f"$snap_x{_NUMBER}", y=f"$snap_y{_NUMBER}")
    return drawn


def _add_hover(panel: Panel, ax: Axes, drawn: Renderers, label: str, *, x: str, y: str) -> None:
    """Show the values under the pointer, with the labels of the axes."""
    name = [("", label)] if label else []
    shown = [*name, (ax.get_xlabel() or "x", x), (ax.get_ylabel() or "y", y)]
    # Where many lines lie on each other, the first speaks for all.
    panel.add_tools(HoverTool(renderers=[*drawn], tooltips=shown, visible=False, limit=1))


def _text(ax: Axes, text: Text) -> Label:
    """Words, at their place among the data."""
    on_screen = text.get_transform().transform(text.get_position())
    x, y = map(float, ax.transData.inverted().transform(on_screen))
    colour, align = to_hex(text.get_color()), text.get_horizontalalignment()
    size = f"{text.get_fontsize():.0f}pt"
    return Label(
        x=x, y=y, text=text.get_text(), text_color=colour, text_align=align, text_font_size=size
    )


def _range(start: float, end: float) -> Range1d:
    return Range1d(start=start, end=end)


def _look(line: Line2D) -> dict[str, Any]:
    colour, alpha = _colour(line.get_color(), line.get_alpha())
    dash = _DASHES.get(str(line.get_linestyle()), "solid")
    width = line.get_linewidth()
    return {"line_color": colour, "line_alpha": alpha, "line_width": width, "line_dash": dash}


def _colour(colour: Any, alpha: float | None = None) -> tuple[str, float]:
    """One of Matplotlib's colours for Bokeh, and how opaque it is."""
    return to_hex(colour), float(to_rgba(colour, alpha)[3])


def _legend_panel(drawn: list[Named]) -> Panel:
    """A panel with nothing but one legend of what is in any of the others."""
    panel: Panel = bokeh.plotting.figure(
        x_range=_range(0, 1),
        y_range=_range(0, 1),
        tools="",
        toolbar_location=None,
        sizing_mode="stretch_width",
        outline_line_color=None,
        min_border=0,
    )
    panel.axis.visible = panel.grid.visible = False
    shared: Named = {}
    for label, renderers in (pair for named in drawn for pair in named.items()):
        if label not in shared:
            # A legend shows only what its own panel has: the same look, of nothing.
            glyph = renderers[0].glyph.clone()
            nowhere = ColumnDataSource({"x": [np.nan], "y": [np.nan]})
            glyph.update(x="x", y="y")
            shared[label] = [panel.add_glyph(nowhere, glyph)]
        shared[label].extend(renderers)
    legend, panel.height = _legend(shared)
    panel.add_layout(legend, "center")
    return panel


def _legend(named: Named) -> tuple[Legend, int]:
    """The names of what is drawn, a click on which hides it; and their height in pixels."""
    columns = 2 if max(map(len, named)) <= _SHORT_NAME else 1
    legend = Legend(
        items=[LegendItem(label=label, renderers=drawn) for label, drawn in named.items()],
        click_policy="hide",
        orientation="horizontal",
        ncols=columns,
        location="center",
        label_text_font_size=_LABEL_SIZE,
    )
    return legend, _LEGEND_ROW * (1 + math.ceil(len(named) / columns))  # one row for the margins
