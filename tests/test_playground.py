"""The network that trains in a page of the book, from a file and in a browser.

The page here has the markup and the scripts alone; that the book's page loads is in
test_browser.py.
"""

import importlib
import json
import re
import shutil
from urllib.parse import parse_qsl

import numpy as np
import playground_reference as reference
import pytest
from built_book import ROOT
from sklearn.datasets import load_digits
from test_browser import LAPTOP, PHONE, Visit

RNG = np.random.default_rng(0)
BOOK = ROOT / "book"
STEPS = 50


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of the page, in a folder of its own."""
    folder = tmp_path_factory.mktemp("playground")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BOOK / "_ext"))
        extension = importlib.import_module("playground")
    for file in (extension.STYLE, *extension.SCRIPTS):
        shutil.copy(BOOK / "_static" / file, folder)
    (folder / extension.IMAGES).write_text(extension.images(), "utf-8")
    head = (
        '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    )
    head += f'<link rel="stylesheet" href="{extension.STYLE}">'
    for script in (extension.IMAGES, *extension.SCRIPTS):
        head += f'<script src="{script}" defer></script>'
    text = (BOOK / "playground.md").read_text("utf-8")
    markup = extension.MARKUP.read_text("utf-8")
    (folder / "page.html").write_text(head + text.replace("```{playground}\n```", markup), "utf-8")
    return folder.as_uri()


@pytest.fixture(scope="module")
def tab(browser, page):
    """The page in a tab in which nothing is pressed."""
    with browser.new_context(viewport=LAPTOP) as context, Visit(context, page) as visit:
        yield visit.open("page.html")
        assert visit.problems == []


# -- the mathematics ----------------------------------------------------------------------------

BITS = """cases => {
    const { METHODS } = mathematics();
    return JSON.parse(cases).map(([method, initial, weights]) => {
        const { keep, nearest } = METHODS[method];
        const result = nearest(Float64Array.from(weights), keep(Float64Array.from(initial)));
        return Array.from(new BigUint64Array(result.buffer), String);
    });
}"""


def vector(dtype, d):
    """Of one of several kinds: most have ties, zeros of both signs or subnormal numbers."""
    tiny = np.finfo(dtype).smallest_subnormal
    pools = ([-1, -0.0, 0.0, 1], [-0.0, 0.0], [-tiny, -0.0, 0.0, tiny], [-2, 0.5, 0.25, 1, 3])
    kind = RNG.integers(len(pools) + 1)
    return (RNG.normal(size=d) if kind == len(pools) else RNG.choice(pools[kind], d)).astype(dtype)


def test_its_synchronisation_is_that_of_the_library_bit_for_bit(tab):
    cases, expected, ties, zeros = [], [], 0, 0
    for number in range(1000):
        dtype, d = (np.float32, np.float64)[number % 2], RNG.integers(1, 65)
        initial, weights = vector(dtype, d), vector(dtype, d)
        ties += len(np.unique(weights)) < d
        zeros += len({*np.signbit(initial[initial == 0])}) == 2
        for method, projection in reference.PROJECTIONS.items():
            cases.append((method, initial.tolist(), weights.tolist()))
            kept = projection.keep(initial[None])
            expected.append(projection.nearest(weights[None], kept)[0].astype(np.float64))
    assert min(ties, zeros) > 300
    found = tab.evaluate(BITS, json.dumps(cases))
    for case, ours, theirs in zip(cases, expected, found, strict=True):
        assert ours.view(np.uint64).tolist() == list(map(int, theirs)), case


TRAIN = """([choice, steps]) => {
    const { Training, decode, frame } = mathematics();
    const training = new Training(choice, decode(DIGITS));
    const kernels = () => training.layers.map(layer => Array.from(layer.kernel));
    const start = kernels(), batches = [];
    for (let i = 0; i < steps; i++) {
        batches.push(training.nextBatch());
        training.step(batches.at(-1));
    }
    const { accuracy, newValues, travel } = frame(training);
    const biases = training.layers.map(layer => Array.from(layer.bias));
    const shown = { accuracy, newValues, travel: Array.from(travel) };
    return JSON.stringify({ start, batches, end: kernels(), biases, ...shown });
}"""


def as_kernels(flat):
    """Each (in, out), of the weight vectors after one another that the page has."""
    sizes = ((64, 32), (32, 16), (16, 10))
    return [np.reshape(a, size[::-1]).T for a, size in zip(flat, sizes, strict=True)]


@pytest.mark.parametrize(
    ("method", "start"),
    [("laperm", "uniform"), ("laperm", "two"), ("signs", "normal"), ("masks", "even"),
     ("adam", "one")],
)  # fmt: skip
def test_fifty_steps_give_the_order_of_weights_that_numpy_gives(tab, method, start):
    choice = {"method": method, "start": start, "k": 20, "rate": 0.03, "seed": 3}
    found = json.loads(tab.evaluate(TRAIN, [choice, STEPS]))
    x, y = load_digits(return_X_y=True)
    x /= 16
    initial, batches = as_kernels(found["start"]), np.array(found["batches"])
    assert batches.shape == (STEPS, 32)
    assert len({*batches[:44].ravel()}) == 44 * 32  # an epoch has no image twice
    assert (batches % 5 != 0).all()
    kernels, biases = reference.train(method, 20, 0.03, initial, batches, x, y)
    for ours, theirs in zip(kernels, as_kernels(found["end"]), strict=True):
        assert np.array_equal(*(np.argsort(each, axis=0, kind="stable") for each in (ours, theirs)))
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(biases, found["biases"], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)

    shown = reference.synchronised(method, kernels, initial)
    right = reference.forward(x, shown, biases)[-1].argmax(axis=1) == y
    held_out = np.arange(len(x)) % 5 == 0
    assert found["accuracy"] == [right[~held_out].mean(), right[held_out].mean()]
    new = sum(len(now) - common(now, first) for now, first in columns(shown, initial))
    assert sum(found["newValues"]) == new
    assert (new == 0) == (method == "laperm")
    travel = np.reshape(found["travel"], (32, 64)).T
    by_value = np.abs(shown[0] - initial[0])
    moved = reference.pixels_moved(shown[0], initial[0]) if method == "laperm" else by_value
    np.testing.assert_allclose(travel, moved, rtol=1e-6, atol=1e-12)
    assert moved.max() > 0


def columns(*networks):
    """The weight vectors of networks, side by side."""
    for kernels in zip(*networks, strict=True):
        yield from zip(*(kernel.T for kernel in kernels), strict=True)


def common(now, first):
    """How many values two vectors have in common."""
    values = np.intersect1d(now, first)
    return sum(min((now == value).sum(), (first == value).sum()) for value in values)


@pytest.mark.parametrize("start", ["uniform", "normal", "even", "two", "one"])
def test_initial_values_are_what_their_names_say(tab, start):
    choice = {"method": "adam", "start": start, "k": 20, "rate": 0.01, "seed": 5}
    first = as_kernels(json.loads(tab.evaluate(TRAIN, [choice, 0]))["start"])
    again = as_kernels(json.loads(tab.evaluate(TRAIN, [choice | {"seed": 6}, 0]))["start"])
    for kernel, other in zip(first, again, strict=True):
        assert (kernel != other).any()
        inputs = len(kernel)
        variance = inputs * (kernel**2).mean()
        if start in ("uniform", "normal"):
            assert 1.6 < variance < 2.4
            assert abs(kernel.mean()) < 4 * np.sqrt(2 / inputs / kernel.size)
            assert len(np.unique(kernel)) == kernel.size
        if start == "uniform":
            assert abs(kernel).max() < np.sqrt(6 / inputs)
        if start == "even":
            steps = np.diff(np.sort(kernel, axis=0), axis=0)
            np.testing.assert_allclose(steps, 2 * np.sqrt(6 / inputs) / (inputs - 1))
        if start in ("two", "one"):
            value = np.sqrt(2 / inputs)
            assert {*kernel.ravel()} == {-value if start == "two" else 0, value}
            assert ((kernel == value).sum(axis=0) == inputs // 2).all()


# -- the page -----------------------------------------------------------------------------------

NUMBERS = """() => Object.fromEntries([...document.querySelectorAll('dd')]
    .map(number => [number.dataset.show, number.textContent]))"""
# What is drawn: paths, the colours of the neurons' pixels, words.
DRAWN = """() => ({
    ...Object.fromEntries([...document.querySelectorAll('path')]
        .map(path => [path.dataset.show, path.getAttribute('d')])),
    neurons: [...document.querySelectorAll('canvas')].map(canvas =>
        [...new Uint32Array(canvas.getContext('2d').getImageData(0, 0, 8, 8).data.buffer)]),
    colour: getComputedStyle(document.querySelector('path[data-show=values-now]')).fill,
    before: document.querySelector('[data-show=before]').checkVisibility()
        ? document.querySelector('[data-show=before-name]').textContent : null,
    words: [...document.querySelectorAll('[role=img]')].map(each => each.ariaLabel),
    status: document.querySelector('[role=status]').textContent,
})"""
FOCUSED = """() => document.activeElement.name || document.activeElement.dataset.choice"""


class Driver:
    """The page, driven by the keyboard alone."""

    def __init__(self, tab):
        self.tab = tab

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    @property
    def step(self):
        return int(self.tab.evaluate(NUMBERS)["steps"].replace(",", ""))

    def wait(self, condition):
        """Until it holds of n, the number of steps."""
        steps = "document.querySelector('[data-show=steps]').textContent.replace(',', '')"
        self.tab.wait_for_function(f"(n => n !== '' && ({condition}))({steps})")

    def drawn(self):
        return self.tab.evaluate(DRAWN)

    def address(self):
        return dict(parse_qsl(self.tab.url.partition("#")[2]))


def points(path):
    return len(re.findall("[ML]", path))


def test_every_control_by_keyboard_and_what_is_drawn(browser, page):
    still = {"viewport": LAPTOP, "reduced_motion": "reduce"}
    with browser.new_context(**still) as context, Visit(context, page) as visit:
        drive_every_control(Driver(visit.open("page.html")))
        assert visit.problems == []
        assert len(visit.loaded) == 5  # the page, its style, three scripts


def drive_every_control(driver):
    driver.wait("n == 0")
    first = driver.drawn()
    assert first["values-now"] == first["values-first"]
    assert first["colour"] == "rgb(1, 115, 178)"
    order = []
    for _ in range(10):
        driver.press("Tab")
        order.append(driver.tab.evaluate(FOCUSED))
    assert order[:7] == ["method", "start", "k", "rate", "train", "step", "shuffle"]
    assert all("=" in choice for choice in order[7:])
    assert driver.step == 0  # nothing moves by itself

    driver.press(*["Shift+Tab"] * 4, "Enter")  # Step
    driver.wait("n == 1")
    driver.press("Shift+Tab", "Space")  # Train
    driver.wait("n >= 41")
    driver.press("Space")  # Pause
    driver.tab.wait_for_function("document.querySelector('[role=status]').textContent")
    driver.tab.wait_for_timeout(100)  # for the answer that is on its way
    trained, stopped = driver.drawn(), driver.step
    assert trained["status"].startswith("Paused at step ")
    assert points(trained["line-held-out"]) == points(trained["line-training"]) >= 10
    assert trained["neurons"] != first["neurons"]
    for was, now in zip(first["neurons"], trained["neurons"], strict=True):
        assert sorted(was) == sorted(now)  # every picture has the same pixels elsewhere
    assert trained["values-now"] == first["values-now"] == trained["values-first"]
    assert trained["travel-now"] != first["travel-now"]
    assert trained["before"] is None
    numbers = driver.tab.evaluate(NUMBERS)
    assert numbers["synchronisations"] == str(stopped // 20)
    assert numbers["new-values"] == "0 of 2,720"
    assert float(numbers["held-out"].split()[0]) > 30
    assert numbers["held-out"] in trained["words"][0]
    driver.tab.wait_for_timeout(150)
    assert driver.step == stopped

    driver.press(*["Shift+Tab"] * 4, "ArrowLeft")  # from LaPerm around to Adam
    driver.wait("n == 0")
    assert driver.address()["method"] == "adam"
    assert driver.tab.locator("[name=k]").is_disabled()
    assert driver.drawn()["before"] == "before: LaPerm, k = 20"
    assert driver.drawn()["neurons"] == first["neurons"]  # the same initial values
    driver.press("Tab", "Tab", "Tab", "Tab", "Enter")  # past k, which Adam does not have
    driver.wait("n == 1")
    adam = driver.drawn()
    assert adam["colour"] == "rgb(222, 143, 5)"
    assert adam["values-now"] != adam["values-first"]
    assert not driver.tab.locator("[data-show=by-chance]").is_visible()

    for key, (method, colour) in {
        "ArrowLeft": ("masks", "rgb(204, 120, 188)"),
        "ArrowUp": ("signs", "rgb(2, 158, 115)"),
    }.items():
        driver.tab.locator("[name=method]:checked").focus()
        driver.press(key)
        driver.wait("n == 0")
        assert driver.address()["method"] == method
        assert driver.drawn()["colour"] == colour
    for name, value in (("start", "normal"), ("k", "50"), ("rate", "0.03")):
        driver.tab.locator(f"[name={name}]").focus()
        driver.press("ArrowDown")
        driver.wait("n == 0")
        assert driver.address()[name] == value
    assert driver.drawn()["values-first"] != first["values-first"]

    driver.press("Tab", "Tab", "Tab", "Space")  # Shuffle
    driver.tab.wait_for_function("document.querySelector('[data-show=seed]').textContent === '2'")
    wanted = {"method": "signs", "k": "50", "rate": "0.03", "start": "normal", "seed": "2"}
    assert driver.address() == wanted
    shuffled = driver.drawn()["neurons"]
    driver.tab.reload()  # the address has it all
    driver.wait("n == 0")
    assert driver.drawn()["neurons"] == shuffled

    choice = driver.tab.locator("[data-choice]").nth(2)
    choice.focus()
    driver.press("Enter")
    driver.tab.wait_for_function("document.querySelectorAll('canvas').length === 32")
    assert driver.tab.url.endswith(choice.get_attribute("data-choice"))
    assert driver.tab.evaluate(FOCUSED) == "train"
    assert driver.tab.locator("[name=start]").input_value() == "two"


def test_an_address_says_what_is_trained(browser, page):
    """What it does not name is the default, and so is what cannot be chosen."""
    with browser.new_context(viewport=PHONE) as context, Visit(context, page) as visit:
        tab = visit.open("page.html#k=5&start=two&seed=7&rate=fast&method=magic&more=3")
        driver = Driver(tab)
        driver.wait("n == 0")
        chosen = {
            name: tab.locator(f"[name={name}]").input_value() for name in ("k", "start", "rate")
        }
        assert chosen == {"k": "5", "start": "two", "rate": "0.01"}
        assert tab.locator("[name=method]:checked").input_value() == "laperm"
        assert tab.evaluate(NUMBERS)["seed"] == "7"
        assert len({pixel for neuron in driver.drawn()["neurons"] for pixel in neuron}) == 2
        tab.evaluate("location.hash = 'a-heading'")
        tab.wait_for_timeout(100)
        assert tab.locator("[name=k]").input_value() == "5"
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        assert visit.problems == []
