"""Figures that Bokeh draws again: what is in its description is what Matplotlib has drawn."""

import base64
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter

from laperm_lib.paper import plotting
from laperm_lib.paper.plotting import Interactive

SEEDS = {"one": {1: [0.2, 0.3], 2: [0.4, 0.6]}, "none": {}}
BAND = {"LaPerm": {x: [x, x + 1] for x in range(20)}, "Adam": {x: [x] for x in range(20)}}


def models(figure, kind):
    """The attributes of all of Bokeh's models of a kind, wherever they are in the description."""

    def walk(value):
        if isinstance(value, dict):
            if value.get("name") == kind and value.get("type") == "object":
                yield value.get("attributes", {})
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from walk(each)

    item = Interactive(figure, alt="A figure.").item if isinstance(figure, plt.Figure) else figure
    return list(walk(item))


def glyphs(item, kind):
    """What is drawn of a kind, without the looks that it has when selected."""
    drawn = [each["glyph"] for each in models(item, "GlyphRenderer")]
    return [glyph["attributes"] for glyph in drawn if glyph["name"] == kind]


def labels(legend):
    return [item["attributes"]["label"]["value"] for item in legend["items"]]


def two_panels(**kwargs):
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", **kwargs)
    plotting.over_seeds(BAND, ax=axes[0])
    plotting.over_seeds(SEEDS, levels={"published": 0.9}, ax=axes[1])
    return figure


@pytest.fixture
def ax():
    return plt.subplots()[1]


def test_curves_bands_levels_and_error_bars_are_there():
    item = Interactive(two_panels(), alt="Two panels.").item
    assert len(models(item, "Figure")) == 2
    assert len(glyphs(item, "Line")) == 4  # one is the level's, for the legend
    assert len(glyphs(item, "Patch")) == 2
    assert len(glyphs(item, "MultiLine")) == 1  # the error bars
    assert [level["location"] for level in models(item, "Span")] == [0.9]
    found = [labels(legend) for legend in models(item, "Legend")]
    assert found == [["LaPerm (2 seeds)", "Adam (1 seed)"], ["one (2 seeds)", "published"]]
    assert len(models(item, "HoverTool")) == 3


def test_a_dash_is_drawn_unless_it_ends_an_error_bar(ax):
    ax.plot([0, 1], [0.2, 0.3], "_", ms=16, mew=2, label="published")
    ax.errorbar([0, 1], [0.5, 0.6], [0.1, 0.1], marker="o", capsize=4, label="ours")
    points = glyphs(Interactive(ax.figure, alt="Dashes and error bars.").item, "Scatter")
    usual = {"marker": {"value": "circle"}, "line_width": {"value": 1.0}}  # Bokeh leaves it out
    looks = [[(usual | point)[name]["value"] for name in usual] for point in points]
    assert looks == [["dash", 2.0], ["circle", 1.0]]
    assert points[0]["size"]["value"] == 16


def test_a_shared_legend_is_one_for_all_panels():
    figure = two_panels()
    plotting.shared_legend(figure)
    [legend] = models(figure, "Legend")
    assert labels(legend) == ["LaPerm (2 seeds)", "Adam (1 seed)", "one (2 seeds)", "published"]


def test_names_are_beside_each_other_where_a_phone_has_room_for_two():
    figure, ax = plt.subplots(layout="constrained")
    for name, columns in (("a" * 18, 2), ("a" * 19, 1)):
        ax.plot([1, 2], [0.5, 0.6], label=name)
        plotting.shared_legend(figure)
        [legend] = models(figure, "Legend")
        assert legend["ncols"] == columns


@pytest.mark.parametrize("shared", [True, False])
def test_panels_with_a_shared_axis_move_together(shared):
    assert len(models(two_panels(sharey=shared), "Range1d")) == (3 if shared else 4)


@pytest.mark.parametrize(("columns", "few"), [(1, 0), (2, 0), (3, 3)])
def test_narrow_panels_have_few_numbers_below(columns, few):
    figure, axes = plt.subplots(1, columns, squeeze=False)
    for ax in axes[0]:
        ax.plot([0, 125], [0, 1])
    tickers = [each.get("desired_num_ticks") for each in models(figure, "BasicTicker")]
    assert sorted(tickers, key=str) == [3] * few + [None] * (2 * columns - few)


def test_profiles_of_few_and_of_many_vectors():
    generator = np.random.default_rng(0)
    few = plotting.vector_profile(generator.normal(size=(100, 784)))
    shown = Interactive(few.figure, alt="A profile.")
    assert len(glyphs(shown.item, "MultiLine")) == 1
    [hover] = models(shown.item, "HoverTool")
    numbers = [number for _, number in hover["tooltips"]]
    assert numbers == ["$snap_x{0.[0000]}", "$snap_y{0.[0000]}"]
    assert len(shown._repr_html_()) < 500_000
    many = plotting.vector_profile(generator.normal(size=(300, 50)))
    assert len(glyphs(Interactive(many.figure, alt="A profile.").item, "Patch")) == 3


def test_words_stand_where_they_stood():
    ax = plotting.over_seeds({"none": {}})
    ax.set(xlim=(0, 10), ylim=(0, 100))
    [label] = models(ax.figure, "Label")
    assert label["text"] == "not yet reproduced"
    assert (label["x"], label["y"]) == (5, pytest.approx(30))


def test_ticks_set_by_hand_keep_their_places_and_words(ax):
    ax.plot([0, 2], [0.5, 0.6], label="LaPerm")
    ax.set_xticks(range(3), ["he_uniform", "he_normal", "glorot_uniform"])
    item = Interactive(ax.figure, alt="A line over three words.").item
    [ticker] = models(item, "FixedTicker")
    assert ticker["ticks"] == [0, 1, 2]
    [axis] = [each for each in models(item, "LinearAxis") if "major_label_overrides" in each]
    words = [[0, "he_uniform"], [1, "he_normal"], [2, "glorot_uniform"]]
    assert axis["major_label_overrides"]["entries"] == words
    [hover] = models(item, "HoverTool")
    assert hover["tooltips"] == [["", "LaPerm"], ["x", "@word"], ["y", "@y{0.[0000]}"]]
    columns = [dict(source["data"]["entries"]) for source in models(item, "ColumnDataSource")]
    assert ["he_uniform", "glorot_uniform"] in [each.get("word") for each in columns]


def test_logarithmic_axes_stay_so_and_numbers_at_ticks_set_by_hand_are_words_too(ax):
    ax.loglog([20, 400], [0.5, 0.6])
    ax.set_xticks([20, 400], [20, 400])
    item = Interactive(ax.figure, alt="A line.").item
    assert len(models(item, "LogScale")) == 2
    [axis] = [each for each in models(item, "LogAxis") if "major_label_overrides" in each]
    assert axis["major_label_overrides"]["entries"] == [[20, "20"], [400, "400"]]


def test_a_point_beside_the_ticks_is_told_as_a_number(ax):
    ax.plot([0, 1.5], [0.5, 0.6])
    ax.set_xticks([0, 1], ["none", "all"])
    [hover] = models(ax.figure, "HoverTool")
    assert hover["tooltips"][0] == ["x", "@x{0.[0000]}"]


def test_a_notebook_shows_the_picture_and_keeps_the_description(ax):
    ax.plot([1, 2], [3, 4], label="</script><b><!--<script>")
    shown = Interactive(ax.figure, alt='A "line".')
    page = BeautifulSoup(shown._repr_html_(), "html.parser")
    assert page.img["alt"] == 'A "line".'
    assert page.img["src"].startswith("data:image/png;base64,")
    [script] = page.find_all("script")
    assert script["type"] == "application/json"
    assert json.loads(script.string)["root_id"] == shown.item["root_id"]
    assert page.b is None
    assert "<" not in script.string  # "<!--<script" would keep the element from ending
    bundle, about = DisplayFormatter().format(shown)  # the picture alone where HTML is not shown
    assert bundle["image/png"] == shown.png == base64.b64decode(page.img["src"].partition(",")[2])
    assert about["image/png"]["alt"] == shown.alt
    assert shown.alt in bundle["text/plain"]
    assert plt.get_fignums() == []


def test_figures_that_cannot_be_shown_are_refused(ax):
    ax.imshow(np.eye(2))
    with pytest.raises(ValueError, match="AxesImage cannot be shown interactively"):
        Interactive(ax.figure, alt="An image.")
    with pytest.raises(ValueError, match="no axes"):
        Interactive(plt.figure(), alt="Nothing.")
    outside = plt.figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="outside of a grid"):
        Interactive(outside.figure, alt="Axes of their own.")
    with pytest.raises(ValueError, match="alt is empty"):
        Interactive(two_panels(), alt=" ")
