"""Warnings are errors in the project's own tests."""

import shutil
import subprocess
import sys
import warnings

import pytest


def test_here():
    with pytest.raises(UserWarning, match="of a test"):
        warnings.warn("of a test", stacklevel=1)


@pytest.mark.filterwarnings("ignore:of a test")
def test_unless_a_mark_says_otherwise():
    warnings.warn("of a test", stacklevel=1)


def test_in_doctests_and_in_what_is_imported_too(repository, tmp_path):
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path)
    warn = 'warnings.warn("{}", UserWarning)'
    (tmp_path / "test_doctests.py").write_text(
        f'"""\n>>> import warnings\n>>> {warn.format("of a doctest")}\n"""\n'
    )
    (tmp_path / "test_imported.py").write_text(f"import warnings\n{warn.format('of an import')}\n")
    command = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", "."]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "1 failed, 1 error" in said
    assert "UserWarning: of a doctest" in said
    assert "UserWarning: of an import" in said
