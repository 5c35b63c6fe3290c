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


@pytest.fixture
def ax():
    return plt.subplots()[1]


def labels(figure):
    found = models(figure, "Legend")
    return [[item["attributes"]["label"]["value"] for item in each["items"]] for each in found]


def words(figure, axis):
    """The words at the ticks of the one axis of a kind that has some."""
    [found] = [each for each in models(figure, axis) if "major_label_overrides" in each]
    return found["major_label_overrides"]["entries"]


def two_panels(**kwargs):
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", **kwargs)
    plotting.over_seeds(BAND, ax=axes[0])
    plotting.over_seeds(SEEDS, levels={"published": 0.9}, ax=axes[1])
    return figure


def test_curves_bands_levels_error_bars_and_legends_are_there():
    figure = two_panels()
    item = Interactive(figure, alt="Two panels.").item
    assert len(models(item, "Figure")) == 2
    assert len(glyphs(item, "Line")) == 4  # one is the level's, for the legend
    assert len(glyphs(item, "Patch")) == 2
    assert len(glyphs(item, "MultiLine")) == 1  # the error bars
    assert [level["location"] for level in models(item, "Span")] == [0.9]
    first, second = ["LaPerm (2 seeds)", "Adam (1 seed)"], ["one (2 seeds)", "published"]
    assert labels(item) == [first, second]
    assert len(models(item, "HoverTool")) == 3
    plotting.shared_legend(figure)
    assert labels(figure) == [first + second]
    # Panels with a shared axis move together.
    shown = (models(two_panels(sharey=shared), "Range1d") for shared in (True, False))
    assert [len(ranges) for ranges in shown] == [3, 4]


def test_a_dash_is_drawn_unless_it_ends_an_error_bar(ax):
    ax.plot([0, 1], [0.2, 0.3], "_", ms=16, mew=2, label="published")
    ax.errorbar([0, 1], [0.5, 0.6], [0.1, 0.1], marker="o", capsize=4, label="ours")
    points = glyphs(Interactive(ax.figure, alt="Dashes and error bars.").item, "Scatter")
    usual = {"marker": {"value": "circle"}, "line_width": {"value": 1.0}}  # Bokeh leaves it out
    looks = [[(usual | point)[name]["value"] for name in usual] for point in points]
    assert looks == [["dash", 2.0], ["circle", 1.0]]
    assert points[0]["size"]["value"] == 16


def test_names_are_beside_each_other_where_a_phone_has_room_for_two():
    figure, ax = plt.subplots(layout="constrained")
    for name, columns in (("a" * 18, 2), ("a" * 19, 1)):
        ax.plot([1, 2], [0.5, 0.6], label=name)
        plotting.shared_legend(figure)
        assert [legend["ncols"] for legend in models(figure, "Legend")] == [columns]


def test_words_stand_where_they_stood():
    ax = plotting.over_seeds({"none": {}})
    ax.set(xlim=(0, 10), ylim=(0, 100))
    [label] = models(ax.figure, "Label")
    assert (label["text"], label["x"], label["y"]) == ("not yet reproduced", 5, pytest.approx(30))


def test_narrow_panels_have_few_numbers_below():
    for columns, few in ((1, 0), (2, 0), (3, 3)):
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


def test_ticks_set_by_hand_keep_their_places_and_words(ax):
    ax.plot([0, 2], [0.5, 0.6], label="LaPerm")
    ax.set_xticks(range(3), ["he_uniform", "he_normal", "glorot_uniform"])
    item = Interactive(ax.figure, alt="A line over three words.").item
    assert [ticker["ticks"] for ticker in models(item, "FixedTicker")] == [[0, 1, 2]]
    assert words(item, "LinearAxis") == [[0, "he_uniform"], [1, "he_normal"], [2, "glorot_uniform"]]
    [hover] = models(item, "HoverTool")
    assert hover["tooltips"] == [["", "LaPerm"], ["x", "@word"], ["y", "@y{0.[0000]}"]]
    columns = [dict(source["data"]["entries"]) for source in models(item, "ColumnDataSource")]
    assert ["he_uniform", "glorot_uniform"] in [each.get("word") for each in columns]
    ax.plot([0, 1.5], [0.5, 0.6])  # a point beside the ticks is told as a number
    tooltips = [hover["tooltips"] for hover in models(ax.figure, "HoverTool")]
    assert ["x", "@x{0.[0000]}"] in tooltips[-1]


def test_logarithmic_axes_stay_so_and_numbers_at_ticks_set_by_hand_are_words_too(ax):
    ax.loglog([20, 400], [0.5, 0.6])
    ax.set_xticks([20, 400], [20, 400])
    assert len(models(ax.figure, "LogScale")) == 2
    assert words(ax.figure, "LogAxis") == [[20, "20"], [400, "400"]]


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
    for figure, alt, why in (
        (ax.figure, "An image.", "AxesImage cannot be shown interactively"),
        (plt.figure(), "Nothing.", "no axes"),
        (plt.figure().add_axes((0, 0, 1, 1)).figure, "Axes of their own.", "outside of a grid"),
        (two_panels(), " ", "alt is empty"),
    ):
        with pytest.raises(ValueError, match=why):
            Interactive(figure, alt=alt)
