"""Unknown notebook parameters and impossible values are refused, before Keras is imported."""

import json
import subprocess
import sys

import keras
import nbclient
import nbformat
import pytest

from laperm_lib.paper.notebooks import check_parameters

GIVEN = {"profile": "quick", "dataset": "auto", "seed": 0}


def test_the_profile_decides_on_the_dataset_that_nobody_names():
    for changed, dataset in (
        ({}, "digits"),
        ({"profile": "paper"}, "cifar10"),
        ({"dataset": "mnist"}, "mnist"),
        ({"profile": "paper", "dataset": "digits"}, "digits"),
    ):
        given = GIVEN | {"__name__": "__main__"} | changed
        assert check_parameters(given, ("digits", "cifar10", "mnist")) == dataset


def test_what_is_wrong_is_named():
    for changed, message in (
        ({"sede": 1}, "Unknown parameter 'sede'.*profile, dataset, seed"),
        *(({name: 1}, f"Unknown parameter '{name}'") for name in ("_seed", "__seed", "seed__")),
        ({"profile": "slow"}, "profile is one of 'quick', 'paper', not 'slow'"),
        ({"dataset": 1}, "dataset is one of 'auto', 'digits', 'mnist', not 1"),
        ({"seed": -1}, "seed is an integer of at least 0, not -1"),
        *(({"seed": seed}, "seed is an integer") for seed in (True, "1", 1.0)),
    ):
        with pytest.raises(ValueError, match=message):
            check_parameters(GIVEN | changed)
    with pytest.raises(ValueError, match="'seed' is missing"):
        check_parameters({"profile": "quick", "dataset": "auto"})


def test_a_mistyped_parameter_is_refused_before_keras_is_imported():
    program = """
profil = "quick"
from laperm_lib.paper.notebooks import check_parameters
try:
    check_parameters(globals())
except ValueError as error:
    import sys
    print(error, *({"keras", "tensorflow", "numpy"} & set(sys.modules)))
"""
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said == "Unknown parameter 'profil'; this notebook has: profile, dataset, seed.\n"


CELLS = ['profile = "quick"\ndataset = "auto"  # digits\nseed = 0']
CHECK = "from laperm_lib.paper.notebooks import check_parameters\n"
CHECK += "dataset = check_parameters(globals())"
WORK = [
    "import math\nepochs = 3",
    "for seed in range(2):\n    rate = 1",
    "%pwd",
    "1 +",  # nothing that Python can read
    "lr = 0.1; seed = 9",
]
ROUND = [*CELLS, CHECK, *WORK]
INJECTED = '# Parameters\n{} = "x"\n'
MISTYPED = CELLS[0].replace("seed", "sede")


@pytest.mark.parametrize("before", [[], ROUND, [*ROUND, *ROUND]], ids=["first", "second", "third"])
def test_in_a_kernel_only_the_cells_with_parameters_count(before):
    """Beside what start-up files and earlier runs leave; each line of a session is one cell."""
    sessions = {
        "as it is": [*CELLS, CHECK],
        "checked again": [*CELLS, CHECK, CHECK],
        "checked after the work": [*ROUND, CHECK],
        "something tried between": [*CELLS, "import os\nthreads = 4", CHECK],
        "injected": [*CELLS, "# Parameters\nseed = 5\n", CHECK],
        "paths": [*CELLS, INJECTED.format("PAPERMILL_INPUT_PATH"), CHECK],
        **{name: [*CELLS, INJECTED.format(name), CHECK] for name in ("_seed", "open", "In")},
        "get_ipython": [*CELLS, INJECTED.format("get_ipython"), CHECK],
        "sede": [MISTYPED, CHECK],
        "gone": [*CELLS, "del seed", CHECK],
    }
    program = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
for session in json.load(sys.stdin):
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.user_ns["Path"] = "of a start-up file"
    shell.showtraceback = lambda *args, **how: None
    for cell in session:
        result = shell.run_cell(cell, store_history=True)
    print(">", result.error_in_exec)
"""
    given = json.dumps([before + session for session in sessions.values()])
    out = subprocess.check_output([sys.executable, "-c", program], input=given, text=True)
    said = [line for line in out.splitlines() if line.startswith(">")]
    for name, error in zip(sessions, said, strict=True):
        if name in ("_seed", "open", "In", "get_ipython", "sede"):
            assert f"Unknown parameter '{name}'" in error
        elif name == "gone":
            assert "'seed' is missing" in error
        else:
            assert error == "> None", name


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="is about TensorFlow's log")
def test_what_tensorflow_logs_stays_out_of_a_notebook(monkeypatch):
    """In a kernel as users have it: that of the Makefile leaves file descriptor 2 alone."""
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    train = "import keras, logging, sys\nlogging.getLogger('tensorflow').warning('traced')\n"
    train += "float(keras.ops.sum(keras.ops.ones(9)))"
    cells = [*CELLS, CHECK, train, "print('of Python', file=sys.stderr)"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    *_, result, printed = [output for cell in notebook.cells for output in cell.outputs]
    assert result["data"] == {"text/plain": "9.0"}
    assert printed["text"] == "of Python\n"
    assert sum(len(cell.outputs) for cell in notebook.cells) == 2
