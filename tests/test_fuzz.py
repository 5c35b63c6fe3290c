"""The fuzzer, briefly: `make fuzz` has more of everything."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="alarms, forks and pipes")


@pytest.mark.parametrize(("part", "count"), [("files", 200), ("commands", 20)])
def test_nothing_strange_does_harm(part, count, tmp_path):
    run = __import__(f"fuzz.{part}", fromlist=["run"]).run
    cases = list(run(0, range(count), tmp_path))
    assert len(cases) == count
    assert [case for case in cases if case.wrong] == []


@pytest.mark.slow
def test_a_killed_training_ends_as_an_uninterrupted_one(repository):
    """In a process of its own, which has computed nothing yet and can fork."""
    words = "-m fuzz --kills 5 --files 0 --commands 0".split()
    environment = os.environ | {"PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    found = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, cwd=repository
    )
    assert found.returncode == 0, found.stdout
    assert "5 killed" in found.stdout
