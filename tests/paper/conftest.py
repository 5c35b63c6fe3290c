"""A short run that many tests look at, trained once."""

import pytest
from short_runs import TASK

from laperm_lib.paper.runs import RunFolder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """The folder of a finished run, not to be changed."""
    folder = RunFolder(tmp_path_factory.mktemp("runs"), TASK)
    folder.run()
    return folder
