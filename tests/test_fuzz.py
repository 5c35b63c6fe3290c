"""The fuzzer, in short: `make fuzz` takes more of everything."""

import os
import subprocess
import sys

import fuzz
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs alarms, pipes and forks")


@pytest.mark.parametrize(("part", "count"), [(fuzz.files, 200), (fuzz.commands, 20)])
def test_damage_and_nonsense_are_refused(part, count, tmp_path):
    cases = list(part(0, range(count), tmp_path))
    assert len(cases) == count
    assert [case for case in cases if case[-1]] == []


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(repository):
    """In a process of its own, which forks before TensorFlow has computed anything."""
    words = [fuzz.__file__, "--kills", "5", "--files", "0", "--commands", "0"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    ended = subprocess.run(
        [sys.executable, *words], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
    assert "5 killed" in ended.stdout
