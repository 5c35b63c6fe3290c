"""Warnings are errors in the project's own tests, and not for those who validate notebooks."""

import warnings
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest


@pytest.mark.filterwarnings("ignore:imported")
def test_in_tests_in_doctests_and_in_what_is_imported_for_them(request, repository):
    with pytest.raises(UserWarning, match="here"):
        warnings.warn("here", stacklevel=1)
    conftest = request.config.pluginmanager.getplugin(str(repository / "tests" / "conftest.py"))
    doctest, cell = Mock(path=Path("module.py")), Mock(path=Path("notebook.ipynb"))
    conftest.pytest_collection_modifyitems([doctest, cell])
    assert (doctest.add_marker.call_count, cell.add_marker.call_count) == (1, 0)
    with closing(conftest.pytest_make_collect_report(doctest)) as importing:
        next(importing)
        with pytest.raises(UserWarning, match="imported"):
            warnings.warn("imported", stacklevel=1)
