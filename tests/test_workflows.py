"""What is installed where: the workflows of GitHub, the locks, and the commands that install them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
]


@pytest.mark.parametrize("job", JOBS)
def test_actions_are_pinned_by_commit(job):
    used = [step["uses"] for step in (job, *job.get("steps", ())) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"\./.*|[\w./-]+@[0-9a-f]{40}", action)


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_installed_beside_a_token_that_can_write(job):
    run = "\n".join(step.get("run", "") for step in job.get("steps", ()))
    if "write" in job.get("permissions", {}).values():
        assert not re.search(r"\b(install|make|uv|npm|curl|docker)\b", run)
    else:
        assert "git push" not in run


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements-backends.txt"])
def test_all_that_a_lock_has_has_hashes(name):
    lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    locked = [line for line in lines if not line.startswith("#")]
    assert len(locked) > 100
    for line in locked:
        assert re.fullmatch(r"[\w-]+==[^\s;]+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_and_binder_require_the_hashes():
    command = ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}"]
    targets = [".venv/requirements.stamp", ".venv-backends/requirements.stamp", "lock"]
    made = subprocess.run([*command, *targets], cwd=ROOT, capture_output=True, text=True).stdout
    said = made + (ROOT / ".binder" / "postBuild").read_text()
    installs = said.replace("\\\n", " ").split("pip install ")[1:]
    exempt = [each.split() for each in installs if "--require-hashes" not in each]
    assert len(installs) == 10
    assert ["torch" in exempt[0], "--editable" in exempt[1], len(exempt)] == [True, True, 2]
