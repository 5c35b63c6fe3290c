"""What the book's pages tell a reader to type: the Python runs, the commands are understood."""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import nbformat
import pytest
import yaml

from laperm_lib.paper import command_line, datasets

BOOK = Path(__file__).resolve().parent.parent / "book"
# That for continuous integration has no Python; its commands are run below.
CI = BOOK / "how_to" / "continuous_integration.md"
PAGES = [BOOK / "intro.md", *sorted({*(BOOK / "how_to").glob("*.md")} - {CI})]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMMAND = re.compile(r"^ *python -m laperm_lib +(.*)$", re.MULTILINE)


def named(path):
    return path.stem


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(
    page, tmp_path, monkeypatch, capsys
):
    """One namespace a page; a `text` block right after a `python` block is what that prints."""
    monkeypatch.chdir(tmp_path)
    digits = datasets.load("digits")  # in place of the download
    arrays = (digits.x_train[..., 0], digits.y_train), (digits.x_test[..., 0], digits.y_test)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: arrays)
    keras.utils.clear_session()  # layers are numbered from the start, as for a reader
    namespace = {"__name__": "__main__"}
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert "python" in {language for language, _ in found}
    if page.stem == "pytorch":
        pytest.importorskip("torch")
    for (language, text), (following, wanted) in zip(found, [*found[1:], ("", "")], strict=True):
        if language != "python":
            continue
        exec(compile(text, f"{page.name}:python", "exec"), namespace)
        printed = capsys.readouterr().out
        if following == "text":
            assert doctest.OutputChecker().check_output(wanted, printed, OUTPUT), printed
        else:
            assert printed == "", printed


@pytest.mark.parametrize("page", [*BOOK.rglob("*.md"), BOOK.parent / "README.md"], ids=named)
def test_the_commands_of_a_page_are_understood(page):
    """The parser takes every `python -m laperm_lib ...` (nothing is run)."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command in COMMAND.findall(text):
        command_line._parser().parse_args(shlex.split(command, comments=True))


@pytest.mark.skipif(sys.platform != "linux", reason="the commands are for Linux")
def test_the_commands_for_continuous_integration_are_run(repository, tmp_path):
    """By the workflow; and here, where neither HOME nor a cache can be written."""
    blocks = [text for _, text in BLOCK.findall(CI.read_text(encoding="utf-8"))]
    workflow = yaml.safe_load((repository / ".github" / "workflows" / "tests.yml").read_text())
    steps = workflow["jobs"]["notebooks"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == blocks
    shutil.copy(repository / "pyproject.toml", tmp_path)
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    for text in ("a = 1", "import matplotlib", "print(a)"):  # it would speak of HOME
        notebook.cells.append(nbformat.v4.new_code_cell(text, execution_count=1))
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "a.ipynb")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"HOME": "/dev/null/x", "PYTEST_ADDOPTS": "-o cache_dir=/dev/null/x"}
    command = ["bash", "-e", "-c", blocks[1]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 3 passed" in done.stdout
    assert (tmp_path / "executed" / "a.ipynb").exists()
