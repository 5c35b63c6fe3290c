"""Sphinx extension with buttons that open a notebook on Binder or on Google Colab.

A book cannot know where it will be published, so the build is told by an environment variable:
`BOOK_REPOSITORY=https://github.com/owner/name`. Without it there are no buttons, for they would
lead nowhere. They open the notebooks of the branch `launch`, which the workflow `book` makes of
what it publishes: Colab has nothing but the notebook, so there each has a first cell, written by ::

    python book/_ext/launching.py https://github.com/owner/name REVISION notebooks/*.ipynb

which gets the repository as it was at that revision, and the versions that it was tested with.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VARIABLE = "BOOK_REPOSITORY"
BRANCH = "launch"
CELL_ID = "install-on-colab"

_SOURCE = """\
# Google Colab has this notebook alone: there, the library and the versions it was tested with are
# installed first. Elsewhere nothing happens here.
if "google.colab" in __import__("sys").modules:
    if __import__("importlib.util").util.find_spec("laperm_lib") is None:
        !rm -rf /content/companion && git clone --quiet {repository} /content/companion
        !git -C /content/companion checkout --quiet {revision}
        !grep == /content/companion/requirements.txt | tr -d '\\\\' > /content/constraints.txt
        %pip install --quiet --constraint /content/constraints.txt \\
            tensorflow=={tensorflow} --editable "/content/companion[paper]"
        raise SystemExit("Once installed, choose Runtime > Restart session, then Run all.")
    %cd -q /content/companion/notebooks"""


def check_repository(url: str) -> str:
    """The address of a repository on GitHub, which is what Colab opens.

    Raises:
        ValueError: if it is another address.
    """
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ValueError(f"{VARIABLE} is like https://github.com/owner/name, got {url!r}.")
    return url


def add_install_cell(path: Path, repository: str, revision: str) -> None:
    """Give a notebook the cell that installs the library on Colab, in front of all others.

    Args:
        path: the notebook. A cell that it has from before is replaced.
        repository: its address.
        revision: the commit to install, 40 hexadecimal digits.

    Raises:
        ValueError: for another address or revision.
    """
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"The revision has 40 hexadecimal digits, got {revision!r}.")
    source = _SOURCE.format(
        repository=check_repository(repository), revision=revision, tensorflow=_locked_tensorflow()
    )
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "execution_count": None, "id": CELL_ID, "metadata": {}}
    cell |= {"outputs": [], "source": source.splitlines(keepends=True)}
    notebook["cells"] = [cell, *(each for each in notebook["cells"] if each["id"] != CELL_ID)]
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _locked_tensorflow() -> str:
    """The version of TensorFlow in the lock.

    On Linux the lock has tensorflow-cpu; pip must not put its files among those of the tensorflow
    that Colab comes with.
    """
    lock = Path(__file__).parents[2] / "requirements.txt"
    return re.findall(r"^tensorflow-cpu==(\S+)", lock.read_text(), re.MULTILINE)[0]


def set_buttons(app: Any, config: Any) -> None:
    """Tell the theme of the repository, if the build has been told."""
    repository = os.environ.get(VARIABLE)
    if not repository:
        return
    config.html_theme_options |= {
        "repository_url": check_repository(repository),
        "repository_branch": BRANCH,
        "path_to_docs": "",  # the notebooks of the book lie where those of the repository do
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", set_buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main(arguments: Sequence[str] | None = None) -> None:
    """Give notebooks their install cells."""
    parser = argparse.ArgumentParser(description="Let notebooks install the library on Colab.")
    parser.add_argument("repository", help="its address, https://github.com/owner/name")
    parser.add_argument("revision", help="the commit to install, 40 hexadecimal digits")
    parser.add_argument("notebooks", nargs="+", type=Path, help="written in place")
    given = parser.parse_args(arguments)
    for path in given.notebooks:
        add_install_cell(path, given.repository, given.revision)


if __name__ == "__main__":
    main()
