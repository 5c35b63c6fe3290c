"""What a run is made with."""

import subprocess

import pytest

from laperm_lib.experiments import environment


def repository(folder):
    for words in (
        ["init", "-q"],
        ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_revision_is_that_of_the_checkout_and_not_of_one_around_it(tmp_path):
    commit = repository(tmp_path)
    revision = environment._revision(tmp_path)
    assert len(revision) == 12
    assert commit.startswith(revision)
    packages = tmp_path / "site-packages"
    packages.mkdir()
    assert environment._revision(packages) == ""


def test_there_may_be_no_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert environment._revision(tmp_path) == ""
    with pytest.raises(FileNotFoundError):
        subprocess.run(["git"], check=False)


def test_versions_are_those_of_this_process():
    found = environment.environment()
    assert {"python", "keras", "numpy", "machine", "cores", "system", "revision"} < found.keys()
