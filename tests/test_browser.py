"""The pages of the book in a browser: Chromium, driven by Playwright, with no way to the outside.

Playwright's own browsers are not needed; any Chromium or Chrome on the machine will do.
"""

import functools
import http.server
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from built_book import chapters

LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = [f"{chapter}.html" for chapter in chapters()]
MEGABYTE = 2**20
# Files that the browser loads once for all pages.
SHARED = {"_static", "bokeh", "mathjax", "searchindex.js"}
# WCAG 2 asks text for 4.5; large text, and with it this test, for 3.
CONTRAST = 3.0

WAIT_FOR_MATHEMATICS = """async () => {
    if (document.querySelector('.math') === null) return;
    while (!window.MathJax?.startup?.promise) await new Promise(r => setTimeout(r, 20));
    await MathJax.startup.promise;
}"""
# Formulas of the article; the table of contents is there twice, once hidden.
RAW_FORMULAS = """() => [...document.querySelectorAll('article .math')].filter(formula =>
    !(formula.querySelector('mjx-container')?.getBoundingClientRect().width > 0) ||
    formula.querySelector('mjx-merror')).map(formula => formula.outerHTML.slice(0, 100))"""
EMPTY_PICTURES = """async () => {
    const pictures = [...document.images];
    for (const picture of pictures) picture.loading = 'eager';
    await Promise.allSettled(pictures.map(picture => picture.decode()));
    return pictures.filter(picture => picture.naturalWidth === 0).map(picture => picture.src);
}"""
# What is wider than the window, without being inside something that scrolls by itself.
OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = node => node && node !== document.body &&
        (getComputedStyle(node).overflowX !== 'visible' || scrolls(node.parentElement));
    if (document.scrollingElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll('main *')]
        .filter(node => node.getBoundingClientRect().right > width + 1 && !scrolls(node))
        .map(node => `${node.tagName} ${node.className} ${node.textContent.slice(0, 40)}`)
        .concat(`the page is ${document.scrollingElement.scrollWidth} pixels wide`);
}"""
# Contrast of text with the nearest opaque background: (L1 + 0.05) / (L2 + 0.05), WCAG 2, 1.4.3.
LOW_CONTRAST = """least => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const luminance = color => {
        const linear = numbers(color).slice(0, 3).map(value => value / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const background = node => {
        for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if ((numbers(color)[3] ?? 1) === 1) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = new Set();
    for (const node of document.querySelectorAll('article *')) {
        const text = [...node.childNodes].filter(child => child.nodeType === Node.TEXT_NODE)
            .map(child => child.textContent.trim()).join('');
        if (!text || !node.checkVisibility({visibilityProperty: true, opacityProperty: true}))
            continue;
        const [one, other] = [getComputedStyle(node).color, background(node)]
            .map(luminance).sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < least)
            found.add(`${ratio.toFixed(1)} ${node.tagName} ${node.className} ${text.slice(0, 30)}`);
    }
    return [...found];
}"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(html):
    """Where the book is served, on this machine alone."""
    handler = functools.partial(_Quiet, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def laptop(browser):
    with browser.new_context(viewport=LAPTOP, color_scheme="light") as context:
        yield context


@pytest.fixture(scope="module")
def phone(browser):
    with browser.new_context(viewport=PHONE, color_scheme="dark") as context:
        yield context


class Visit:
    """A tab on the served book, what it loads, and what goes wrong in it."""

    def __init__(self, context, address):
        self.address, self.problems, self.loaded = address, [], set()
        self.tab = context.new_page()
        self.tab.set_default_timeout(60_000)
        self.tab.on("request", self._look_at)
        self.tab.on("console", self._listen)
        self.tab.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.tab.on("response", self._check)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tab.close()

    def open(self, page):
        self.tab.goto(f"{self.address}/{page}", wait_until="load")
        self.tab.evaluate(WAIT_FOR_MATHEMATICS)
        return self.tab

    def _look_at(self, request):
        if request.url.startswith(f"{self.address}/"):
            self.loaded.add(unquote(urlsplit(request.url).path).lstrip("/"))
        elif not request.url.startswith(("data:", "blob:")):
            self.problems.append(f"leaves the machine: {request.url}")

    def _listen(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _check(self, response):
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")


def assert_fits_and_is_readable(tab, theme):
    tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    assert tab.evaluate(OVERFLOW) == []
    assert tab.evaluate(LOW_CONTRAST, CONTRAST) == []


@pytest.mark.parametrize("page", [*PAGES, "search.html", "genindex.html"])
def test_a_page_is_whole_and_readable_on_a_laptop_and_a_phone(laptop, address, html, page):
    """By day and in the dark; nothing on it complains."""
    with Visit(laptop, address) as visit:
        tab = visit.open(page)
        assert tab.evaluate(RAW_FORMULAS) == []
        assert tab.evaluate(EMPTY_PICTURES) == []
        assert_fits_and_is_readable(tab, "light")
        tab.set_viewport_size(PHONE)
        tab.emulate_media(color_scheme="dark")
        if tab.locator(".laperm-interactive").count():
            tab.wait_for_function(f"() => Bokeh.documents.length && ({FIT_THE_WINDOW})()")
        assert_fits_and_is_readable(tab, "dark")
        assert visit.problems == []
        sizes = {"shared": 0, "own": 0}
        for path in visit.loaded:
            kind = "shared" if Path(path).parts[0] in SHARED else "own"
            sizes[kind] += (html / path).stat().st_size
    assert 0 < sizes["own"] < 3 * MEGABYTE, sizes
    assert 0 < sizes["shared"] < 5 * MEGABYTE, sizes


def test_a_page_is_readable_that_is_loaded_by_a_phone_in_the_dark(phone, address, interactive):
    for page in ("intro.html", interactive[0]):
        with Visit(phone, address) as visit:
            assert_fits_and_is_readable(visit.open(page), "dark")


WAIT_FOR_CHARTS = """async () => {
    const idle = () => window.Bokeh?.documents.length && Bokeh.documents.every(d => d.is_idle);
    while (!idle()) await new Promise(r => setTimeout(r, 20));
}"""
FIT_THE_WINDOW = """() => Bokeh.documents.every(d => d.is_idle) &&
    [...Bokeh.index.query(view => view.model?.type === 'Figure')]
        .every(figure => figure.bbox.width < window.innerWidth)"""
# Names in legends, and titles, that are wider than their panel, which cuts them off.
CUT_OFF = """() => {
    const found = type => [...Bokeh.index.query(view => view.model?.type === type)];
    const ruler = document.createElement('canvas').getContext('2d');
    const legends = found('Legend')
        .filter(legend => legend.bbox.x0 < 0 || legend.bbox.x1 > legend.parent.bbox.width)
        .map(legend => legend.model.items.map(item => item.label.value).join(', '));
    const titles = found('Title').filter(title => {
        ruler.font = title.visuals.text.font_value();
        return title.bbox.x0 + ruler.measureText(title.model.text).width > title.parent.bbox.width;
    });
    return [...legends, ...titles.map(title => title.model.text)];
}"""
# How far apart the left ends of the panels of a figure are, at most.
ABREAST = """() => Math.max(...Bokeh.documents.map(each => {
    const panels = [...each.roots()[0].select(Bokeh.Models.get('Figure'))];
    const left = panels.map(panel => Bokeh.index.find_one(panel).el.getBoundingClientRect().x);
    return Math.max(...left) - Math.min(...left);
}))"""
# Where the first line of a page is, in the middle of it: pixels in the window.
ON_A_LINE = """() => {
    const points = glyph => glyph?.sx ?? glyph?.sxs?.get(0);
    const [view] = Bokeh.index.query(view => points(view.glyph)?.length > 2);
    const [x, y] = ['x', 'y'].map(axis => view.glyph['s' + axis] ?? view.glyph[`s${axis}s`].get(0));
    const box = view.parent.el.getBoundingClientRect(), middle = Math.floor(x.length / 2);
    return [box.x + x[middle], box.y + y[middle]];
}"""
# The first of the axes' ranges, as it is shown.
X_RANGE = """() => {
    const figure = Bokeh.documents[0].roots()[0].select(Bokeh.Models.get('Figure'))[0];
    return [figure.x_range.start, figure.x_range.end];
}"""


@pytest.fixture(scope="module")
def interactive(html):
    """The pages with interactive figures."""
    found = [page for page in PAGES if "laperm-interactive" in (html / page).read_text("utf-8")]
    assert len(found) >= 4
    return found


def test_interactive_figures_take_the_place_of_their_pictures_and_react(
    laptop, address, interactive
):
    for page in interactive:
        with Visit(laptop, address) as visit:
            tab = visit.open(page)
            tab.evaluate(WAIT_FOR_CHARTS)
            figures = tab.locator(".laperm-interactive")
            for number in range(figures.count()):
                figure = figures.nth(number)
                assert figure.locator("img").is_hidden()
                panels = [panel.bounding_box() for panel in figure.locator("canvas").all()]
                assert panels[0]["width"] > 200
                frame = figure.bounding_box()
                ends = max(panel["x"] + panel["width"] for panel in panels)
                assert ends <= frame["x"] + frame["width"] + 1  # nothing is cut off
                assert figure.locator(".laperm-chart").get_attribute("aria-label")
            figures.first.scroll_into_view_if_needed()
            on_a_line = tab.evaluate(ON_A_LINE)
            tab.mouse.move(on_a_line[0] - 3, on_a_line[1] - 3)
            tab.mouse.move(*on_a_line, steps=3)
            told = tab.locator(".bk-tooltip-row-value")
            told.first.wait_for()
            assert re.search(r"\d", told.last.inner_text()), page  # the first may be a name
            before = tab.evaluate(X_RANGE)
            tab.locator("[title='Wheel Zoom']").first.click()
            tab.mouse.move(*on_a_line)
            tab.mouse.wheel(0, -240)
            tab.wait_for_timeout(200)
            closer = tab.evaluate(X_RANGE)
            assert closer[1] - closer[0] < 0.9 * (before[1] - before[0]), page
            tab.locator("[title='Reset']").first.click()
            assert tab.evaluate(X_RANGE) == before
            canvas = figures.first.locator("canvas").first
            canvas.scroll_into_view_if_needed()
            box = canvas.bounding_box()
            middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            tab.mouse.move(*middle)
            tab.mouse.down()
            tab.mouse.move(middle[0] + 40, middle[1], steps=4)
            tab.mouse.up()
            after = tab.evaluate(X_RANGE)
            assert after[0] < before[0], page  # dragged to the right
            assert after[1] < before[1], page
            assert tab.evaluate(CUT_OFF) == []
            tab.set_viewport_size(PHONE)
            tab.wait_for_function(FIT_THE_WINDOW)
            assert tab.evaluate(CUT_OFF) == []
            assert visit.problems == []


def test_panels_stand_below_each_other_where_there_is_no_room_beside(laptop, address):
    with Visit(laptop, address) as visit:
        tab = visit.open("notebooks/conv_cifar10.html")
        tab.evaluate(WAIT_FOR_CHARTS)
        assert tab.evaluate(ABREAST) > 200
        for size, least, most in ((PHONE, 0, 1), (LAPTOP, 200, LAPTOP["width"])):
            tab.set_viewport_size(size)
            tab.wait_for_function(FIT_THE_WINDOW)
            tab.wait_for_function(f"() => {least} <= ({ABREAST})() && ({ABREAST})() <= {most}")
        assert visit.problems == []


def test_without_scripts_the_pictures_are_there(browser, address, interactive):
    with browser.new_context(viewport=LAPTOP, java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto(f"{address}/{interactive[0]}", wait_until="load")
        picture = tab.locator(".laperm-interactive img").first
        assert picture.is_visible()
        assert picture.bounding_box()["width"] > 200


def test_the_front_page_shows_weights_on_the_move(laptop, address):
    with Visit(laptop, address) as visit:
        tab = visit.open("intro.html")
        picture = tab.locator("article figure img").first
        frames = """async img => {
            const data = await (await fetch(img.src)).arrayBuffer();
            const decoder = new ImageDecoder({data, type: 'image/png'});
            await decoder.tracks.ready;
            return decoder.tracks.selectedTrack.frameCount;
        }"""
        assert picture.evaluate(frames) > 20
        assert visit.problems == []


def test_the_network_on_the_page_trains_as_its_address_says(laptop, address):
    """Of the page itself, and of everything it draws: test_playground.py."""
    with Visit(laptop, address) as visit:
        tab = visit.open("playground.html#k=5&start=normal")
        tab.locator("[name=train]").click()
        tab.wait_for_function(
            "document.querySelector('[data-show=synchronisations]').innerText > 1"
        )
        assert tab.locator("[name=k]").input_value() == "5"
        assert tab.locator("[name=start]").input_value() == "normal"
        assert visit.problems == []


def test_the_search_finds_what_the_book_is_about(laptop, address):
    with Visit(laptop, address) as visit:
        tab = visit.tab
        tab.goto(f"{address}/index.html")  # leads to the front page
        tab.wait_for_url("**/intro.html", wait_until="load")
        tab.keyboard.press("Control+k")
        tab.keyboard.type("synchronisation period")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/search.html?q=synchronisation+period*")
        # Results come one after the other.
        tab.wait_for_selector("#search-results ul.search > li > a[href*='how_laperm_works']")
        assert visit.problems == []


def test_these_checks_notice_what_they_look_for(laptop, address):
    """A page that asks another server, throws, and is too wide and too faint is seen to do so."""
    page = """<html><body><main><article><span class="math">\\(x\\)</span>
        <img src="https://example.org/x.png"><script>throw new Error("thrown")</script>
        <p style="width: 2000px; color: #777; background: #888">Wide and faint</p>
        </article></main></body></html>"""
    with Visit(laptop, address) as visit:
        visit.tab.goto(f"{address}/missing.html")
        visit.tab.set_content(page, wait_until="load")
        visit.tab.wait_for_timeout(200)
        told = "\n".join(visit.problems)
        for problem in ("404", "leaves the machine: https://example.org/x.png", "thrown"):
            assert problem in told
        assert visit.tab.evaluate(EMPTY_PICTURES) == ["https://example.org/x.png"]
        assert len(visit.tab.evaluate(RAW_FORMULAS)) == 1
        assert any(text.startswith("P ") for text in visit.tab.evaluate(OVERFLOW))
        assert len(visit.tab.evaluate(LOW_CONTRAST, CONTRAST)) == 1
