"""What a run is made with."""

import subprocess

import pytest

from laperm_lib import _backend
from laperm_lib.paper import environment


def repository(folder):
    def git(*words):
        return subprocess.check_output(["git", "-C", str(folder), *words], text=True).strip()

    git("init", "-q")
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    git(*author, "commit", "-q", "--allow-empty", "-m", "x")
    return git("rev-parse", "HEAD")


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


def test_versions_and_hardware_are_those_of_this_process():
    found = environment.environment()
    assert {"python", "keras", "numpy", "machine", "cores", "system", "revision"} < found.keys()
    assert {type(value) for value in found.values()} == {str}  # torch's own version is none
    assert found["processor"]
    assert (found["accelerators"] == "none") == (not _backend.accelerators())


def test_the_name_of_the_processor(tmp_path):
    information = tmp_path / "cpuinfo"
    information.write_text("processor : 0\nmodel name\t: Some: CPU @ 2 GHz\n\nmodel name: other\n")
    assert environment._processor(information) == "Some: CPU @ 2 GHz"
    assert environment._processor(tmp_path / "none")


def test_a_run_that_resumed_elsewhere_has_both():
    first, second = {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}
    both = environment.joined(first, second)
    assert both == {"a": "1", "b": "2, then 3", "c": "4"}
    assert environment.joined(both, second) == both
    assert environment.joined(both, first)["b"] == "2, then 3, then 2"
