"""The book, built once for all test files that look at it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent


def chapters():
    """The pages of the table of contents, such as "notebooks/quickstart"."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    listed = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [
        toc["root"],
        *(page["file"] for chapter in listed for page in (chapter, *chapter.get("sections", ()))),
    ]


def build(folder):
    """Build the book from the committed notebooks, as they are; returns the folder of the pages."""
    shutil.copytree(ROOT / "book", folder / "source")
    shutil.copytree(ROOT / "notebooks", folder / "source" / "notebooks")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "source"]
    options = ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    built = subprocess.run(
        command + options,
        cwd=folder,
        env=os.environ | {"BOOK_REPOSITORY": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "_build" / "html"


def build_once(folder):
    """Build in a folder that several processes name: the first builds, the others wait for it."""
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):  # ends with the process
        outcome = folder / "outcome.txt"
        if not outcome.exists():
            try:
                build(folder)
                outcome.write_text("built", encoding="utf-8")
            except AssertionError as error:
                outcome.write_text(f"{error}", encoding="utf-8")
        assert outcome.read_text(encoding="utf-8") == "built", outcome.read_text(encoding="utf-8")
    return folder / "_build" / "html"
