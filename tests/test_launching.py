"""The buttons that open a notebook elsewhere, and the cell that installs the library there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager

REPOSITORY, REVISION = "https://github.com/someone/companion", "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def launching(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "book" / "_ext")
    import launching

    return launching


@pytest.fixture
def notebook(repository, tmp_path):
    return Path(shutil.copy(repository / "notebooks" / "quickstart.ipynb", tmp_path))


def run_first_cell(path):
    """What a notebook's first cell asks IPython for, and how it ends."""
    source = nbformat.read(path, as_version=4).cells[0].source
    shell, names, end = Mock(), {}, None
    try:
        exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell}, names)
    except SystemExit as exit_:
        end = exit_
    assert names == {}  # any would be taken for a parameter of the notebook
    return [" ".join(map(str, call.args)) for call in shell.method_calls], end


def test_the_cell_is_the_first_and_there_once(launching, notebook):
    """Written without any installed package, as in the job that publishes."""
    before = nbformat.read(notebook, as_version=4).cells
    for revision in ("f" * 40, REVISION):
        command = [sys.executable, "-I", "-S", launching.__file__, REPOSITORY, revision, notebook]
        subprocess.run(command, check=True)
    whole = nbformat.read(notebook, as_version=4)
    nbformat.validate(whole)
    after = whole.cells
    assert after[0].id == launching.CELL_ID
    assert REVISION in after[0].source
    assert after[1:] == before


def on_colab(path, monkeypatch, *, installed):
    """The same on Colab, with the library there or not."""
    monkeypatch.setitem(sys.modules, "google.colab", Mock())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: Mock() if installed else None)
    return run_first_cell(path)


def test_on_colab_the_revision_and_its_lock_are_installed(
    launching, repository, notebook, monkeypatch, tmp_path
):
    launching.add_install_cell(notebook, REPOSITORY, REVISION)
    asked, end = on_colab(notebook, monkeypatch, installed=False)
    clone, checkout, without_hashes, install = asked
    assert f"git clone --quiet {REPOSITORY} /content/companion" in clone
    assert f"git -C /content/companion checkout --quiet {REVISION}" in checkout
    assert install.startswith("pip install")
    assert '--editable "/content/companion[paper]"' in install
    assert "--constraint /content/constraints.txt" in install
    lock = (repository / "requirements.txt").read_text()
    command = without_hashes.removeprefix("system ").replace("/content/companion", str(repository))
    subprocess.run(command.replace("/content", str(tmp_path)), shell=True, check=True)
    constraints = (tmp_path / "constraints.txt").read_text().splitlines()
    assert len(constraints) == lock.count("==") - lock.count(" == ")
    assert all(re.fullmatch(r"[\w-]+==[^\s;]+( ; .+?)? +", line) for line in constraints)
    (tensorflow,) = (word for word in install.split() if word.startswith("tensorflow=="))
    assert f"\n{tensorflow} ;" in lock
    assert f"\n{tensorflow.replace('==', '-cpu==')} ;" in lock
    assert "Restart session" in str(end)


def test_elsewhere_nothing_happens_and_on_colab_nothing_twice(launching, notebook, monkeypatch):
    launching.add_install_cell(notebook, REPOSITORY, REVISION)
    assert run_first_cell(notebook) == ([], None)
    asked = on_colab(notebook, monkeypatch, installed=True)
    assert asked == (["cd -q /content/companion/notebooks"], None)


@pytest.mark.parametrize(
    ("address", "revision"),
    [
        ("https://example.org/someone/companion", REVISION),
        (REPOSITORY + "/tree/main", REVISION),
        (REPOSITORY, "main"),
    ],
)
def test_other_addresses_and_revisions_are_refused(launching, notebook, address, revision):
    content = notebook.read_bytes()
    with pytest.raises(ValueError, match=r"github\.com/owner/name|40 hexadecimal"):
        launching.add_install_cell(notebook, address, revision)
    assert notebook.read_bytes() == content


def test_pages_have_buttons_if_the_build_is_told_of_the_repository(
    repository, notebook, tmp_path, monkeypatch
):
    pytest.importorskip("sphinx_book_theme", reason="the book's tools are not installed here")
    source = tmp_path / "source"
    (source / "notebooks").mkdir(parents=True)
    shutil.copy(notebook, source / "notebooks")
    (source / "index.md").write_text("# Book\n\n```{toctree}\nnotebooks/quickstart\n```\n")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(repository / 'book' / '_ext')!r})\n"
        "extensions = ['myst_nb', 'launching']\nhtml_theme = 'sphinx_book_theme'\n"
        "nb_execution_mode = 'off'\n"
    )
    monkeypatch.setenv("BOOK_REPOSITORY", REPOSITORY)
    command = [sys.executable, "-m", "sphinx", "-q", str(source), str(tmp_path / "html")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    page = (tmp_path / "html" / "notebooks" / "quickstart.html").read_text()
    links = {link["href"] for link in BeautifulSoup(page, "html.parser").find_all("a", href=True)}
    elsewhere = {link for link in links if "binder" in link or "colab" in link}
    of_the_branch = f"{REPOSITORY.removeprefix('https://github.com/')}/{{}}launch"
    assert elsewhere == {
        f"https://mybinder.org/v2/gh/{of_the_branch.format('')}"
        "?urlpath=lab/tree/notebooks/quickstart.ipynb",
        f"https://colab.research.google.com/github/{of_the_branch.format('blob/')}"
        "/notebooks/quickstart.ipynb",
    }
