"""The pages of the built book are read; `test_browser.py` opens them in a browser."""

import ast
import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from built_book import ROOT, chapters

import laperm_lib.paper
from laperm_lib.paper import benchmark, records, runs

# What makes a browser ask for something while it loads a page.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def pages(html):
    """The parsed pages, by path."""
    found = sorted(p for p in html.rglob("*.html") if not {"_static", "mathjax"} & set(p.parts))
    assert len(found) >= len(chapters())
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in found}


def test_every_notebook_is_a_chapter_and_every_chapter_has_a_page(html):
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(chapters())
    for chapter in (*chapters(), "index"):
        assert (html / f"{chapter}.html").is_file(), chapter


def test_links_within_the_book_lead_somewhere(pages):
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            url, fragment = urldefrag(unquote(link["href"]))
            if urlsplit(url).scheme or url.startswith("//"):
                continue
            target = (path.parent / url).resolve() if url else path
            if not target.is_file() or (
                fragment and target in anchors and fragment not in anchors[target]
            ):
                broken.append(f"{path.name}: {link['href']}")
    assert broken == []


def test_pages_load_nothing_from_elsewhere(html, pages):
    external, missing = [], []
    for path, page in pages.items():
        for name, attribute in LOADED.items():
            for tag in page.find_all(name, attrs={attribute: True}):
                url = tag[attribute]
                if name == "link" and not {"stylesheet", "preload", "icon"} & set(tag["rel"]):
                    continue
                if urlsplit(url).scheme not in ("", "data") or url.startswith("//"):
                    external.append(f"{path.name}: {url}")
                elif not url.startswith("data:"):
                    file = (path.parent / unquote(urlsplit(url).path)).resolve()
                    if not file.is_file():
                        missing.append(f"{path.name}: {url}")
    for sheet in (html / "_static").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        imports = re.findall(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)", text)
        external += [f"{sheet.name}: {url}" for url in imports]
    assert external == []
    assert missing == []


def public_names():
    """What the pages of the API reference list: functions, classes and their members."""
    directive = re.compile(r"\.\. auto(\w+):: (\S+)\n(?: +:members: (.*))?")
    found = []
    for page in (ROOT / "book" / "api").glob("*.md"):
        for kind, name, members in directive.findall(page.read_text("utf-8")):
            found += [] if kind == "module" else [name]
            found += [f"{name}.{member}" for member in members.split(", ") if member]
    return found


def is_there(name):
    """Whether what a name needs is installed."""
    return not name.startswith("laperm_lib.torch") or importlib.util.find_spec("torch")


def lookup(name):
    """What a dotted name of the library stands for; an error if it stands for nothing."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(lookup(module), attribute)


def test_the_api_reference_has_the_public_names_with_their_docstrings():
    listed = public_names()
    assert len(listed) == len(set(listed))
    for name in filter(is_there, listed):
        assert not any(part.startswith("_") for part in name.split("."))
        assert inspect.getdoc(lookup(name)), name
    for package in (laperm_lib, laperm_lib.paper):
        for name in package.__all__:
            full = f"{package.__name__}.{name}"
            assert any(each == full or each.startswith(f"{full}.") for each in listed), full


def test_names_in_texts_stand_for_something():
    """Code names in prose: nothing else would notice that what they mean has moved away."""
    patterns = ("README.md", "book/**/*.md", "notebooks/*.ipynb", "laperm_lib/**/*.py")
    texts = [path.read_text("utf-8") for each in patterns for path in ROOT.glob(each)]
    found = {
        name for text in texts for name in re.findall(r"\blaperm_lib(?:\.[A-Za-z_]\w*)+", text)
    }
    found -= {"laperm_lib.paper.plotting.book"}  # a style of Matplotlib
    assert len(found) > 100
    for name in filter(is_there, sorted(found)):
        assert lookup(name) is not None, name


def test_a_page_has_an_icon_and_does_not_tell_where_it_was_built(html, pages):
    folders = [str(ROOT), sys.prefix, str(html)]
    for path, page in pages.items():
        assert page.find("link", rel="icon"), path  # or browsers ask for /favicon.ico
        assert not page.find("a", href=re.compile("executablebooks/jupyter-book")), path
        assert not page.find("a", href=re.compile("mybinder|colab")), path  # nobody told of a place
        text = path.read_text("utf-8")
        assert not any(folder in text for folder in folders), path


def test_mathjax_lies_beside_the_pages_and_is_loaded_once(html, pages):
    assert (html / "mathjax" / "tex-chtml.js").is_file()
    assert len(list((html / "mathjax" / "output").rglob("*.woff"))) >= 20
    with_mathematics = 0
    for path, page in pages.items():
        scripts = [tag["src"] for tag in page.find_all("script", src=True)]
        loaded = [source for source in scripts if "mathjax" in source]
        if page.find(class_="math"):
            with_mathematics += 1
            assert len(loaded) == 1, path
    assert with_mathematics > 0


def test_everything_of_others_has_its_licence(html, pages, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    licences = importlib.import_module("licences")
    beside = {file for part in ("_static", "mathjax", "bokeh") for file in (html / part).rglob("*")}
    found = {pattern: set(html.glob(pattern)) for pattern in licences.OURS}
    assert len({licences.address(part) for part in licences.PARTS}) == len(licences.PARTS)
    for part in licences.PARTS:
        found |= {pattern: set(html.glob(pattern)) for pattern in part.files}
        text = (html / licences.address(part)).read_text(encoding="utf-8")
        words = {"MIT": "Permission is hereby granted", "Apache-2.0": "Apache License"}
        assert words.get(part.licence, "Redistribution and use") in text
        assert part.name in pages[html / "licences.html"].get_text()
    assert [pattern for pattern, files in found.items() if not files] == []
    claimed = set().union(*found.values())
    assert sorted(file for file in beside - claimed if file.is_file()) == []


def test_pictures_have_a_description(pages):
    """A notebook gives it in the metadata of the cell: {"mystnb": {"image": {"alt": "..."}}}."""
    for path, page in pages.items():
        for picture in page.find_all("img"):
            description = picture.get("alt", "").strip()
            # Without one, MyST-NB puts the name of the file there.
            assert description, f"{path.name}: {picture['src']}"
            assert not description.endswith(Path(picture["src"]).name), path.name


def rows(page):
    """The texts of the first table of a page, without its head."""
    found = [
        [cell.get_text(" ", strip=True) for cell in row.find_all("td")]
        for row in page.find("table").find_all("tr")
    ]
    return [cells for cells in found if cells]


def test_the_front_page_has_the_published_numbers_and_those_of_the_records(html, pages):
    shown = rows(pages[html / "intro.html"])
    assert [name for name, *_ in shown] == [row.experiment for row in benchmark.ROWS]
    for name, _, published, *_ in shown:
        assert published == f"{100 * benchmark.row(name).accuracy:.2f}"
    finals = [100 * each.final for each in records.load(ROOT / "pretrained" / "f1.json")]
    wanted = f"{np.mean(finals):.2f} ± {np.std(finals, ddof=1):.2f}"
    (ours,) = (row for row in shown if row[0] == "f1")
    assert ours[3].replace("\N{NO-BREAK SPACE}", " ") == wanted
    assert ours[4:] == ["in full", f"{len(finals)} of {len(finals)}"]
    shipped = runs.shipped_records(ROOT / "pretrained")
    lengths = {(r.experiment, benchmark.variant(r.experiment, r.settings).profile) for r in shipped}
    for name, *_, trained, _ in shown:
        in_full, short = ((name, profile) in lengths for profile in ("paper", "short"))
        words = "in full" if in_full else "a tenth as long" if short else "not yet reproduced"
        assert trained == words, name


def parameters(notebook):
    """The names and values that the `parameters` cell of a notebook assigns."""
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    return {
        statement.targets[0].id: str(ast.literal_eval(statement.value))
        for statement in ast.parse(cell.source).body
    }


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_the_page_of_a_notebook_has_the_command_that_runs_it(html, pages, notebook):
    page = pages[html / "notebooks" / f"{notebook.stem}.html"]
    box = page.find(class_="admonition")
    words = shlex.split(box.find("pre").get_text())
    assert words[:5] == [
        "papermill", f"notebooks/{notebook.name}", "out.ipynb", "--cwd", "notebooks",
    ]  # fmt: skip
    assert words[5::3] == ["-p"] * (len(words[5:]) // 3)
    assert dict(zip(words[6::3], words[7::3], strict=True)) == parameters(notebook)
    download = (html / "notebooks" / box.find("a")["href"]).resolve()
    assert nbformat.read(download, as_version=4) == nbformat.read(notebook, as_version=4)
    needs = [each.get_text() for each in box.find_all("code")]
    assert needs[0].startswith("pip install")
    assert needs[1] == "LAPERM_PRETRAINED_DIR"


def test_the_status_page_has_every_notebook(html, pages):
    shown = rows(pages[html / "status.html"])
    assert {row[0] for row in shown} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {row[-1] for row in shown} == {"committed outputs"}


@pytest.mark.parametrize(
    ("exception", "result"), [(None, "ran to its end"), (True, "failed")], ids=["well", "failed"]
)
def test_what_papermill_has_written_is_read(tmp_path, monkeypatch, exception, result):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    executed_notebooks = importlib.import_module("executed_notebooks")
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    notebook.metadata["papermill"] = {
        "duration": 31.4, "end_time": "2026-11-21T10:00:59.123", "exception": exception,
        "parameters": {"seed": 7},
    }  # fmt: skip
    nbformat.write(notebook, tmp_path / "quickstart.ipynb")
    found = executed_notebooks.read(tmp_path / "quickstart.ipynb")
    assert (found.seconds, found.finished, found.result) == (31.4, "2026-11-21 10:00", result)
    assert found.command.endswith("-p profile quick -p dataset auto -p seed 7")
