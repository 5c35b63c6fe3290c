"""The package as its users install it: few requirements, light imports, a wheel that works."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
import yaml

from laperm_lib import LaPerm

# What no one who puts LaPerm on a model of their own needs.
BLOCKED = {
    *("cv2", "sklearn", "PIL", "safetensors", "h5py", "bokeh", "matplotlib", "seaborn", "pandas"),
    *("filelock", "fcntl", "cattrs", "tabulate", "distributed", "optuna", "scipy", "tensorflow"),
}
NEEDED = {"tensorflow": {"tensorflow"}, "jax": {"scipy"}, "torch": set()}[keras.backend.backend()]

USE = """
import numpy as np
import keras
import laperm_lib
from laperm_lib import callbacks, gradient_flow, sparsity

x = np.random.default_rng(0).normal(size=(64, 6, 6, 1)).astype("float32")
y = np.arange(64) % 3

for optimizer in (laperm_lib.LaPerm("adam", 2), laperm_lib.SGPerm()):
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64),
        keras.layers.Dense(3),
    ])
    sparsity.random_prune(model, 0.3, seed=0)
    before = [vectors.matrix() for vectors in laperm_lib.weight_vectors.of(model)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    average = callbacks.PWALKS(sample_period=2, window=2)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[average])
    after = [vectors.matrix() for vectors in laperm_lib.weight_vectors.of(model)]
    assert all(map(laperm_lib.permutation.is_permutation, before, after))
assert sparsity.keep_zeros(model) > 0.1
assert gradient_flow.effective_gradient_flow(model, x, y, loss).effective > 0
laperm_lib.RSO(cycles=1, batch_size=64, exclude="conv|dense/").fit(model, x, y)
"""


def run(code, *, python=sys.executable, path=None, **environment):
    """Run Python code in a fresh process; gives its output."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    command = [python, "-c", code]
    done = subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


ASK = """
import laperm_lib.paper
for need in ("load_pretrained", "load_published", "plotting", "datasets.load('digits')"):
    try:
        eval(f"laperm_lib.paper.{need}")
    except ImportError as error:
        print(error)
"""


def test_a_model_of_ones_own_needs_no_extra_and_what_needs_one_says_which():
    block = f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED - NEEDED!r}))"
    said = run(block + USE + ASK)
    assert said.count('pip install "laperm-lib[paper]"') == 4


def test_importing_and_making_an_optimizer_costs_little_beyond_keras():
    code = """
import sys, time
import keras
before = set(sys.modules)
started = time.process_time()
import laperm_lib
laperm_lib.LaPerm("adam", 20)
print(time.process_time() - started)
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    seconds, imported = run(code).splitlines()
    assert float(seconds) < 0.3
    heavy = BLOCKED | {"numba", "tensorflow", "jax", "torch"}
    assert heavy.isdisjoint(imported.split())


def test_a_fresh_process_loads_what_was_saved(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(LaPerm("adam", 5), loss="mse")
    model.save(tmp_path / "model.keras")
    ours_first = "import laperm_lib, sys\nassert 'keras' not in sys.modules\nimport keras"
    for imports in ("import keras, laperm_lib", f"{ours_first}\nlaperm_lib.LaPerm"):
        run(
            f"{imports}\n"
            f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r})\n"
            "assert model.optimizer.sync_period == 5"
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repository):
    """The wheel, built from a copy so that the build leaves nothing in the work tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, folder)
    shutil.copytree(repository / "laperm_lib", folder / "laperm_lib")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


def test_the_readme_runs_on_the_wheel_in_a_bare_environment(wheel, tmp_path, repository):
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv, which `make setup` installs")
    backend = keras.backend.backend()
    if backend == "torch":
        pytest.skip("PyPI's torch for Linux brings CUDA along, gigabytes of it")
    pinned = (repository / "requirements.txt").read_text()
    name = "tensorflow-cpu" if "tensorflow-cpu" in pinned and sys.platform == "linux" else backend
    subprocess.run(
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "bare"], check=True
    )
    python = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(re.sub(r"(?m)^torch==.*$|\s*\\\n\s+--hash\S+", "", pinned))
    packages = [wheel, name if backend == "tensorflow" else "jax", *sorted(NEEDED & {"scipy"})]
    install = [uv, "pip", "install", "--quiet", "--python", python, "-c", constraints, *packages]
    subprocess.run(install, check=True)
    example = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    data = (
        "import keras, numpy as np\n"
        "x, y = np.zeros((200, 28, 28), 'uint8'), np.zeros(200, 'uint8')\n"
        "x[np.arange(200), np.arange(200) % 28] = 255\ny[:] = np.arange(200) % 10\n"
        "keras.datasets.mnist.load_data = lambda *args: ((x, y), (x, y))\n"
    )
    code = f"{data}\n{example[1]}\nassert model.optimizer.is_permutation()"
    run(code, python=python, path=tmp_path, PYTHONPATH="", HOME=str(tmp_path))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the package as the wheel installs it, without a checkout around it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


LOAD = """
import os
from laperm_lib.paper import load_pretrained, manifest
print(manifest.__file__)
for place in {places}:
    os.environ["LAPERM_PRETRAINED_DIR"] = place
    print(load_pretrained("f1").count_params())
os.environ["LAPERM_PRETRAINED_DIR"] = ""
try:
    load_pretrained("f1")
except Exception as error:
    print(error)
"""


def test_networks_are_loaded_from_a_wheel_by_folder_and_by_address(installed, repository, tmp_path):
    networks = repository / "pretrained"
    environment = {"PYTHONPATH": str(installed), "KERAS_HOME": str(tmp_path)}
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=networks)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        places = [str(networks), f"http://127.0.0.1:{server.server_port}"]
        said = run(LOAD.format(places=places), path=tmp_path, **environment)
        server.shutdown()
    assert str(installed) in said
    assert said.split().count("7840") == 2  # beside the progress of a download
    assert "set the environment variable LAPERM_PRETRAINED_DIR" in said.splitlines()[-1]


def test_actions_are_pinned_and_nothing_is_installed_beside_a_token_that_can_write(repository):
    for path in (repository / ".github" / "workflows").glob("*.yml"):
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            steps = job.get("steps", [job])
            for action in [step["uses"] for step in steps if "uses" in step]:
                assert re.fullmatch(r"\./.*|[\w./-]+@[0-9a-f]{40}", action), name
            writes = "write" in job.get("permissions", {}).values()
            assert writes == ("git push" in str(steps)), name
            assert not (writes and re.search(r"\b(install|make|uv|npm|docker)\b", str(steps))), name


@pytest.mark.skipif(os.name == "nt", reason="needs make")
def test_locks_have_hashes_and_these_are_required(repository):
    for name in ("requirements.txt", "tests/requirements-backends.txt"):
        for line in (repository / name).read_text().replace("\\\n", "").splitlines()[2:]:
            assert re.fullmatch(r"[\w-]+==[^\s;]+( ; .+?)?( +--hash=sha256:\w{64})+", line), line
    stamps = [f"{folder}/requirements.stamp" for folder in (".venv", ".venv-backends")]
    command = ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}", "lock", *stamps]
    said = subprocess.run(command, cwd=repository, capture_output=True, text=True).stdout
    said += (repository / ".binder" / "postBuild").read_text()
    without = [x for x in said.split("pip install ")[1:] if "--require-hashes" not in x]
    assert ["torch" in without[0], "--editable" in without[1], len(without)] == [True, True, 2]
