"""The book is built from the committed notebooks, as they are, and its pages are read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What makes a browser ask for something while it loads a page.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", folder / "source")
    shutil.copytree(ROOT / "notebooks", folder / "source" / "notebooks")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "source"]
    options = ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    built = subprocess.run(
        command + options, cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def pages(html):
    """The parsed pages, by path."""
    found = sorted(p for p in html.rglob("*.html") if not {"_static", "mathjax"} & set(p.parts))
    assert len(found) >= len(chapters())
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in found}


def chapters():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def test_every_chapter_has_a_page(html):
    for chapter in chapters():
        assert (html / f"{chapter}.html").is_file(), chapter
    assert (html / "index.html").is_file()


def test_every_notebook_is_a_chapter():
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(chapters())


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


def test_pictures_have_a_description(pages):
    """A notebook gives it in the metadata of the cell: {"mystnb": {"image": {"alt": "..."}}}."""
    for path, page in pages.items():
        for picture in page.find_all("img"):
            description = picture.get("alt", "").strip()
            # Without one, MyST-NB puts the name of the file there.
            assert description, f"{path.name}: {picture['src']}"
            assert not description.endswith(Path(picture["src"]).name), path.name


def test_no_button_leads_to_another_project(pages):
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            assert "executablebooks/jupyter-book" not in link["href"], path.name


def test_a_browser_typesets_the_mathematics_offline(html, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    page = (html / "how_laperm_works.html").as_uri()
    shown = subprocess.run(
        [browser, *options, page], capture_output=True, text=True, check=False, timeout=180
    )
    assert shown.returncode == 0, shown.stderr
    rendered = BeautifulSoup(shown.stdout, "html.parser")
    formulas = rendered.find_all(class_="math")
    assert formulas
    assert all(formula.find("mjx-container") for formula in formulas)
    assert not rendered.find("mjx-merror")
