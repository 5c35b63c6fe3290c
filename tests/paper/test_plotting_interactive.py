"""Figures that Bokeh draws again: what is in its description is what Matplotlib has drawn."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup

from laperm_lib.paper import plotting
from laperm_lib.paper.plotting import Interactive

RUNS = {"LaPerm": [{"a": [0.5, 0.7, 0.8]}, {"a": [0.6, 0.7, 0.9]}], "Adam": {"a": [0.3, 0.4, 0.5]}}
SEEDS = {"one": {1: [0.2, 0.3], 2: [0.4, 0.6]}, "none": {}}


def models(item, kind):
    """All of Bokeh's models of a kind, wherever they are in the description."""

    def walk(value):
        if isinstance(value, dict):
            if value.get("name") == kind and value.get("type") == "object":
                yield value
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)

    return list(walk(item))


def glyphs(item, kind):
    """How often something of a kind is drawn, beside the looks that it has when selected."""
    drawn = [each["attributes"]["glyph"]["name"] for each in models(item, "GlyphRenderer")]
    return drawn.count(kind)


def two_panels(**kwargs):
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", **kwargs)
    plotting.training_curves(RUNS, metric="a", ax=axes[0])
    plotting.over_seeds(SEEDS, levels={"published": 0.9}, ax=axes[1])
    return figure


def test_curves_bands_levels_and_error_bars_are_there():
    shown = Interactive(two_panels(), alt="Two panels.")
    assert len(models(shown.item, "Figure")) == 2
    assert glyphs(shown.item, "Line") == 4  # one is the level's, for the legend
    assert glyphs(shown.item, "Patch") == 1
    assert glyphs(shown.item, "MultiLine") == 1  # the error bars
    [level] = models(shown.item, "Span")
    assert level["attributes"]["location"] == 0.9
    titles = [legend["attributes"]["items"] for legend in models(shown.item, "Legend")]
    labels = [[item["attributes"]["label"]["value"] for item in items] for items in titles]
    assert labels == [["LaPerm (2 runs)", "Adam"], ["one (2 seeds)", "published"]]
    assert len(models(shown.item, "HoverTool")) == 3


def test_a_dash_is_drawn_unless_it_ends_an_error_bar():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0.2, 0.3], "_", ms=16, mew=2, label="published")
    ax.errorbar([0, 1], [0.5, 0.6], [0.1, 0.1], marker="o", capsize=4, label="ours")
    shown = Interactive(figure, alt="Dashes and error bars.")
    renderers = [each["attributes"]["glyph"] for each in models(shown.item, "GlyphRenderer")]
    points = [glyph["attributes"] for glyph in renderers if glyph["name"] == "Scatter"]
    usual = {"marker": {"value": "circle"}, "line_width": {"value": 1.0}}  # Bokeh leaves it out
    looks = [[(usual | point)[name]["value"] for name in usual] for point in points]
    assert looks == [["dash", 2.0], ["circle", 1.0]]
    assert points[0]["size"]["value"] == 16


def test_a_shared_legend_is_one_for_all_panels():
    figure = two_panels()
    plotting.shared_legend(figure)
    [legend] = models(Interactive(figure, alt="Two panels.").item, "Legend")
    labels = [item["attributes"]["label"]["value"] for item in legend["attributes"]["items"]]
    assert labels == ["LaPerm (2 runs)", "Adam", "one (2 seeds)", "published"]


def test_names_are_beside_each_other_where_a_phone_has_room_for_two():
    figure, ax = plt.subplots(layout="constrained")
    for name, columns in (("a" * 18, 2), ("a" * 19, 1)):
        ax.plot([1, 2], [0.5, 0.6], label=name)
        plotting.shared_legend(figure)
        [legend] = models(Interactive(figure, alt="Lines.").item, "Legend")
        assert legend["attributes"]["ncols"] == columns


@pytest.mark.parametrize("shared", [True, False])
def test_panels_with_a_shared_axis_move_together(shared):
    shown = Interactive(two_panels(sharey=shared), alt="Two panels.")
    assert len(models(shown.item, "Range1d")) == (3 if shared else 4)


@pytest.mark.parametrize(
    ("columns", "expected"), [(1, [6, 6]), (2, [6, 6, 6, 6]), (3, [3, 3, 3, 6, 6, 6])]
)
def test_narrow_panels_have_few_numbers_below(columns, expected):
    figure, axes = plt.subplots(1, columns, squeeze=False)
    for ax in axes[0]:
        ax.plot([0, 125], [0, 1])
    tickers = models(Interactive(figure, alt="Lines.").item, "BasicTicker")
    wanted = sorted(each["attributes"].get("desired_num_ticks", 6) for each in tickers)  # 6: Bokeh
    assert wanted == expected


def test_profiles_of_few_and_of_many_vectors():
    generator = np.random.default_rng(0)
    few = plotting.vector_profile(generator.normal(size=(100, 784)))
    shown = Interactive(few.figure, alt="A profile.")
    assert glyphs(shown.item, "MultiLine") == 1
    [hover] = models(shown.item, "HoverTool")
    assert [number for _, number in hover["attributes"]["tooltips"]] == [
        "$snap_x{0.[0000]}",
        "$snap_y{0.[0000]}",
    ]
    assert len(shown._repr_html_()) < 500_000
    many = plotting.vector_profile(generator.normal(size=(300, 50)))
    assert glyphs(Interactive(many.figure, alt="A profile.").item, "Patch") == 3


def test_words_stand_where_they_stood():
    ax = plotting.over_seeds({"none": {}})
    ax.set(xlim=(0, 10), ylim=(0, 100))
    [label] = models(Interactive(ax.figure, alt="Nothing.").item, "Label")
    about = label["attributes"]
    assert about["text"] == plotting.NOTHING
    assert (about["x"], about["y"]) == (5, pytest.approx(30))


def test_logarithmic_axes_stay_so():
    figure, ax = plt.subplots()
    ax.loglog([1, 10, 100], [1, 2, 3])
    assert len(models(Interactive(figure, alt="A line.").item, "LogScale")) == 2


def test_ticks_set_by_hand_keep_their_places_and_words():
    _, ax = plt.subplots()
    ax.plot([0, 2], [0.5, 0.6], label="LaPerm")
    ax.set_xticks(range(3), ["he_uniform", "he_normal", "glorot_uniform"])
    shown = Interactive(ax.figure, alt="A line over three words.")
    [ticker] = models(shown.item, "FixedTicker")
    assert ticker["attributes"]["ticks"] == [0, 1, 2]
    [axis] = [a for a in models(shown.item, "LinearAxis") if ticker in a["attributes"].values()]
    words = [[0, "he_uniform"], [1, "he_normal"], [2, "glorot_uniform"]]
    assert axis["attributes"]["major_label_overrides"]["entries"] == words
    [hover] = models(shown.item, "HoverTool")
    assert hover["attributes"]["tooltips"] == [
        ["", "LaPerm"],
        ["x", "@word"],
        ["y", "@y{0.[0000]}"],
    ]
    columns = [
        dict(s["attributes"]["data"]["entries"]) for s in models(shown.item, "ColumnDataSource")
    ]
    assert ["he_uniform", "glorot_uniform"] in [c.get("word") for c in columns]


def test_numbers_at_ticks_set_by_hand_are_words_too():
    _, ax = plt.subplots()
    ax.plot([20, 400], [0.5, 0.6])
    ax.set_xscale("log")
    ax.set_xticks([20, 400], [20, 400])
    [axis] = models(Interactive(ax.figure, alt="A line.").item, "LogAxis")
    entries = axis["attributes"]["major_label_overrides"]["entries"]
    assert entries == [[20, "20"], [400, "400"]]


def test_a_point_beside_the_ticks_is_told_as_a_number():
    _, ax = plt.subplots()
    ax.plot([0, 1.5], [0.5, 0.6])
    ax.set_xticks([0, 1], ["none", "all"])
    [hover] = models(Interactive(ax.figure, alt="A line.").item, "HoverTool")
    assert hover["attributes"]["tooltips"][0] == ["x", "@x{0.[0000]}"]


def test_a_notebook_shows_the_picture_and_keeps_the_description():
    figure, ax = plt.subplots()
    ax.plot([1, 2], [3, 4], label="</script><b><!--<script>")
    shown = Interactive(figure, alt='A "line".')
    page = BeautifulSoup(shown._repr_html_(), "html.parser")
    assert page.img["alt"] == 'A "line".'
    assert page.img["src"].startswith("data:image/png;base64,")
    [script] = page.find_all("script")
    assert script["type"] == "application/json"
    assert json.loads(script.string)["root_id"] == shown.item["root_id"]
    assert page.b is None
    assert "<" not in script.string  # "<!--<script" would keep the element from ending
    assert plt.get_fignums() == []


def test_what_it_does_not_know_is_named():
    figure, ax = plt.subplots()
    ax.imshow(np.eye(2))
    with pytest.raises(ValueError, match="AxesImage cannot be shown interactively"):
        Interactive(figure, alt="An image.")
    with pytest.raises(ValueError, match="no axes"):
        Interactive(plt.figure(), alt="Nothing.")
    with pytest.raises(ValueError, match="alt is empty"):
        Interactive(two_panels(), alt=" ")
    plt.close("all")
