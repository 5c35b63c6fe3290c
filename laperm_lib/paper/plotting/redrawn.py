"""A Matplotlib figure drawn again by Bokeh, with hover, zoom, and a legend that hides curves."""

from typing import Any

import bokeh.plotting
import numpy as np
from bokeh.layouts import column, gridplot
from bokeh.models.annotations import Label, Span
from bokeh.models.ranges import Range1d
from bokeh.models.sources import ColumnDataSource
from bokeh.models.tickers import FixedTicker
from bokeh.models.tools import HoverTool
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from laperm_lib.paper.plotting import legends
from laperm_lib.paper.plotting.canvas import evenly_spaced
from laperm_lib.paper.plotting.legends import Named, Renderers

_DOTS_PER_INCH = 80
_MAX_POINTS = 65  # of one line among many; a figure of hundreds would weigh megabytes
_FEW_TICKS = 3  # on the x axis of three panels in a row, which are narrow
_DASHES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}
_CAPS = {"_": "dash", "|": "vertical_dash"}  # markers that end error bars, which need no ends here
_NUMBER = "{0.[0000]}"  # how Bokeh is to write one
_TOOLS = "pan,box_zoom,wheel_zoom,reset"


def redrawn(figure: Figure) -> Any:
    """Draw a figure again: all axes in their places, each with its lines, bands and legend.

    Args:
        figure: of lines, error bars, bands, levels and words.

    Returns:
        A layout of Bokeh's, as wide as there is room.

    Raises:
        ValueError: for a figure with anything else in it; names what it is.

    Examples:
        >>> import matplotlib.pyplot as plt
        >>> figure, ax = plt.subplots(1, 2)
        >>> len(redrawn(figure).children)
        2
    """
    found = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    drawn = {ax: _panel(ax) for ax in found}
    panels = {ax: panel for ax, (panel, _) in drawn.items()}
    for one, panel in panels.items():  # those that share an axis are moved together
        for other, beside in panels.items():
            if one.get_shared_x_axes().joined(one, other):
                beside.x_range = panel.x_range
            if one.get_shared_y_axes().joined(one, other):
                beside.y_range = panel.y_range
    rows: dict[int, dict[int, Any]] = {}
    for ax, panel in panels.items():
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError("Axes outside of a grid cannot be shown interactively.")
        rows.setdefault(place.rowspan.start, {})[place.colspan.start] = panel
    if not rows:
        raise ValueError("The figure has no axes.")
    columns = sorted({start for row in rows.values() for start in row})
    if len(columns) > 2:
        for panel in panels.values():
            ticker: Any = panel.xaxis[0].ticker
            ticker.desired_num_ticks = _FEW_TICKS
    grid = [[row.get(start) for start in columns] for _, row in sorted(rows.items())]
    layout = gridplot(grid, sizing_mode="stretch_width", merge_tools=True)
    names = [named for _, named in drawn.values()]
    if figure.legends and any(names):
        # Not within the grid, where it would be no wider than the panels without their numbers.
        return column(layout, legends.panel_of(names), sizing_mode="stretch_width")
    return layout


def _panel(ax: Axes) -> tuple[bokeh.plotting.figure, Named]:
    """One axes and all that is on it; and what of it has a name."""
    inches = ax.get_window_extent().height / ax.figure.dpi
    height = round((inches + 0.7) * _DOTS_PER_INCH)
    panel = bokeh.plotting.figure(
        title=ax.get_title(),
        height=height,
        x_axis_label=ax.get_xlabel(),
        y_axis_label=ax.get_ylabel(),
        x_axis_type="log" if ax.get_xscale() == "log" else "linear",
        y_axis_type="log" if ax.get_yscale() == "log" else "linear",
        x_range=_range(ax.get_xlim()),
        y_range=_range(ax.get_ylim()),
        tools=_TOOLS,
        toolbar_location="above",
    )
    panel.toolbar.logo = None
    panel.toolbar.autohide = True
    labels = _labels(ax)
    named: Named = {}
    for artist in ax.get_children():
        label = labels.get(artist, "")
        drawn = _draw(panel, ax, artist, label)
        if drawn and label:
            named.setdefault(label, []).extend(drawn)
    if ax.get_legend() is not None and named:
        panel.add_layout(legends.legend_of(named), "below")
        panel.height = height + legends.height_of(named)
    for axis, original in ((panel.xaxis[0], ax.xaxis), (panel.yaxis[0], ax.yaxis)):
        axis.axis_label_text_font_size = legends.LABEL_SIZE
        axis.minor_tick_line_color = None
        words: Any = _words(original)
        if words:
            axis.ticker = FixedTicker(ticks=list(words))
            axis.major_label_overrides = words
    return panel, named


def _words(axis: Axis) -> dict[float, str]:
    """What stands at the ticks of an axis, where it has been set by hand (`Axes.set_xticks`)."""
    formatter = axis.get_major_formatter()
    if not isinstance(formatter, FuncFormatter):
        return {}
    places = [float(place) for place in axis.get_majorticklocs()]
    words = formatter.format_ticks(places)
    return {place: str(word) for place, word in zip(places, words, strict=True)}


def _draw(panel: bokeh.plotting.figure, ax: Axes, artist: Any, label: str) -> Renderers:
    """Draw what Matplotlib has drawn; nothing for frames, axes and legends."""
    match artist:
        case Line2D() if artist.get_transform() == ax.get_yaxis_transform():
            level = float(np.asarray(artist.get_ydata())[0])
            span = Span(location=level, dimension="width", **_look(artist))
            panel.add_layout(span)
            # A span has no place in a legend; a line of no length has.
            return [panel.line([np.nan], [np.nan], **_look(artist))]
        case Line2D():
            return _line(panel, ax, artist, label)
        case LineCollection():
            return _lines(panel, ax, artist, label)
        case PolyCollection():
            colour, alpha = _colour(artist.get_facecolor())
            corners = [np.asarray(path.vertices).T for path in artist.get_paths()]
            return [panel.patch(x, y, color=colour, alpha=alpha, line_width=0) for x, y in corners]
        case Text() if artist is ax.title or not artist.get_text():
            return []
        case Text():
            panel.add_layout(_text(ax, artist))
            return []
        case _ if artist in (ax.patch, ax.xaxis, ax.yaxis, ax.get_legend(), *ax.spines.values()):
            return []
        case _:
            raise ValueError(f"A {type(artist).__name__} cannot be shown interactively.")


def _line(panel: bokeh.plotting.figure, ax: Axes, line: Line2D, label: str) -> Renderers:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    source = ColumnDataSource({"x": x, "y": y})
    said = f"@x{_NUMBER}"
    words = _words(ax.xaxis)
    if words and set(x) <= set(words):
        source.data["word"] = [words[place] for place in x]
        said = "@word"
    drawn: Renderers = []
    if line.get_linestyle() in _DASHES:
        drawn.append(panel.line("x", "y", source=source, **_look(line)))
    marker = line.get_marker()
    is_cap = marker in _CAPS and any(line in bar.get_children() for bar in ax.containers)
    if marker not in (None, "None", "") and not is_cap:
        colour, alpha = _colour([line.get_color()])
        look: dict[str, Any] = {"color": colour, "alpha": alpha, "size": line.get_markersize()}
        look |= {"line_width": line.get_markeredgewidth()}
        kind = _CAPS.get(str(marker), "circle")
        drawn.append(panel.scatter("x", "y", source=source, marker=kind, **look))
    if drawn:
        _tell(panel, ax, drawn, label, x=said, y=f"@y{_NUMBER}")
    return drawn


def _tell(
    panel: bokeh.plotting.figure, ax: Axes, drawn: Renderers, label: str, *, x: str, y: str
) -> None:
    """Say where the pointer is on something drawn, in the words of its axes."""
    name = [("", label)] if label else []
    told = [*name, (ax.get_xlabel() or "x", x), (ax.get_ylabel() or "y", y)]
    # Of lines that are all but one, the first speaks for all.
    panel.add_tools(HoverTool(renderers=[*drawn], tooltips=told, visible=False, limit=1))


def _lines(panel: bokeh.plotting.figure, ax: Axes, lines: LineCollection, label: str) -> Renderers:
    """Many lines of one look; a long one at evenly spaced points."""
    segments = [np.asarray(segment, dtype=float) for segment in lines.get_segments()]
    if not segments:
        return []
    thinned = [segment[evenly_spaced(len(segment), _MAX_POINTS)] for segment in segments]
    colour, alpha = _colour(lines.get_colors())
    drawn: Renderers = [
        panel.multi_line(
            [s[:, 0] for s in thinned],
            [s[:, 1] for s in thinned],
            color=colour,
            alpha=alpha,
            line_width=float(np.atleast_1d(lines.get_linewidth())[0]),
        )
    ]
    if not any(lines in bar.get_children() for bar in ax.containers):  # no error bars
        _tell(panel, ax, drawn, label, x=f"$snap_x{_NUMBER}", y=f"$snap_y{_NUMBER}")
    return drawn


def _text(ax: Axes, text: Text) -> Label:
    """Words, at their place among the data."""
    on_screen = text.get_transform().transform(text.get_position())
    x, y = (float(value) for value in ax.transData.inverted().transform(on_screen))
    colour, alpha = _colour([text.get_color()])
    return Label(
        x=x,
        y=y,
        text=text.get_text(),
        text_color=colour,
        text_alpha=alpha,
        text_align=text.get_horizontalalignment(),
        text_font_size=f"{text.get_fontsize():.0f}pt",
    )


def _labels(ax: Axes) -> dict[Any, str]:
    """The names that artists have in a legend. The parts of an error bar have that of the whole."""
    parts = {part: str(bar.get_label()) for bar in ax.containers for part in bar.get_children()}
    found = {artist: parts.get(artist, str(artist.get_label())) for artist in ax.get_children()}
    return {artist: label for artist, label in found.items() if not label.startswith("_")}


def _range(limits: tuple[float, float]) -> Range1d:
    return Range1d(start=float(limits[0]), end=float(limits[1]))


def _look(line: Line2D) -> dict[str, Any]:
    colour, alpha = _colour([line.get_color()])
    return {
        "line_color": colour,
        "line_alpha": alpha if line.get_alpha() is None else line.get_alpha(),
        "line_width": line.get_linewidth(),
        "line_dash": _DASHES.get(str(line.get_linestyle()), "solid"),
    }


def _colour(colours: Any) -> tuple[str, float]:
    """The first of Matplotlib's colours, and how opaque it is."""
    red, green, blue, alpha = to_rgba_array(colours)[0]
    return to_hex((red, green, blue)), float(alpha)
