"""What the book's pages tell a reader to type: the Python runs, the commands are understood."""

import doctest
import re
import shlex
from pathlib import Path

import keras
import pytest

from laperm_lib.paper import command_line, datasets

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGES = [BOOK / "intro.md", *sorted((BOOK / "how_to").glob("*.md"))]
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
