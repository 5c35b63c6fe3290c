"""Checks of the committed notebooks beside nbval, which compares their outputs."""

import ast
import gc
import re
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PARAMETERS = {"profile", "dataset", "seed"}
# nbval's own two ways, for a cell's tags and its comments, to leave an output uncompared.
IGNORED = re.compile(r"nbval[-_](ignore[-_]output|skip)", re.IGNORECASE)
OF_ONE_MACHINE = re.compile(
    r"/(home|root|Users|tmp|work|private)/|[A-Z]:\\\\"  # absolute paths
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d"  # times
)
TENSORFLOW_LOG = re.compile(r"absl::InitializeLog|oneDNN custom operations|cpu_feature_guard")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_compared(cell):
    marks = " ".join([*cell.metadata.get("tags", []), *re.findall(r"#.*", cell.source)])
    return not IGNORED.search(marks)


def texts(output):
    """What an output holds in words: a stream's text, or the text forms of a value."""
    yield output.get("text", "")
    for mime, data in output.get("data", {}).items():
        if mime.startswith("text/"):
            yield data


def test_is_valid(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info.file_extension == ".py"  # or scripts of it are text
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def test_first_code_cell_has_the_parameters(path, notebook):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(notebook)]
    assert tagged == [True] + [False] * (len(tagged) - 1)
    assert set(papermill.inspect_notebook(str(path))) >= PARAMETERS


def test_was_run_from_top_to_bottom_without_a_trace_of_the_machine(notebook):
    cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source
            for text in texts(output):
                assert not TENSORFLOW_LOG.search(text)
                assert not OF_ONE_MACHINE.search(text), text
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "mystnb"}


def test_figures_have_the_style_of_the_book(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert source.count('plt.style.use("laperm_lib.paper.plotting.book")') == 1
    assert "rcParams" not in source


def test_figures_are_stored_as_pictures_too(notebook):
    """Where HTML is not shown, as in LaTeX, there is nothing else."""
    bundles = [o.get("data", {}) for cell in code_cells(notebook) for o in cell.outputs]
    for bundle in bundles:
        for picture in re.findall(r'data:image/png;base64,([^"]+)"', bundle.get("text/html", "")):
            assert bundle["image/png"].replace("\n", "") == picture


def test_records_are_found_by_the_library_wherever_the_notebook_lies(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"[\"/]pretrained[\"/]", cell.source), cell.source


def shows_something(source):
    """Whether a cell surely has an output: it prints, or ends in an expression that is no call."""
    statements = ast.parse(source).body
    expressions = [s.value for s in statements if isinstance(s, ast.Expr)]
    if any(ast.unparse(expression).startswith("print(") for expression in expressions):
        return True
    ends_in_value = isinstance(statements[-1], ast.Expr) if statements else False
    is_call = ends_in_value and isinstance(expressions[-1], ast.Call)
    return ends_in_value and not is_call and not source.rstrip().endswith(";")


def test_compared_cells_are_stored_with_their_output(notebook):
    compared = [cell for cell in code_cells(notebook) if is_compared(cell)]
    assert any(cell.outputs for cell in compared)
    for cell in compared:
        if shows_something(cell.source):
            assert cell.outputs, f"stored without being run:\n{cell.source}"


@pytest.fixture
def shell(monkeypatch):
    """IPython in this process, which has imported Keras already; a kernel would take seconds to."""
    monkeypatch.chdir(FOLDER)
    config = Config()
    config.HistoryManager.enabled = False  # nothing is written
    opened = InteractiveShell.instance(config=config)
    with plt.rc_context():
        yield opened
    opened.reset()
    InteractiveShell.clear_instance()
    keras.utils.clear_session()
    gc.collect()


class Stale:
    """What an earlier run has left under a name."""


@pytest.mark.parametrize("runs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_cell_runs_again_in_one_kernel_with_another_seed(path, shell, runs):
    """What "Run all" for a second time does, with parameters as papermill gives them.

    One run has all names from the beginning, as a second would: none may be read before it is
    assigned.
    """
    again = parameterize_notebook(load_notebook_node(str(path)), {"seed": 1})
    cells = [*code_cells(load_notebook_node(str(path)))] * (runs - 1) + [*code_cells(again)]
    injected = [c for c in cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1
    for name in ast.walk(ast.parse("\n".join(cell.source for cell in cells))):
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
            shell.user_ns[name.id] = Stale()
    for cell in cells:
        shell.run_cell(cell.source, store_history=True).raise_error()
    assert shell.user_ns["seed"] == 1


@pytest.mark.parametrize("wrong", [{"sede": 1}, {"profile": "slow"}, {"seed": "one"}], ids=str)
def test_wrong_parameters_are_refused_before_anything_is_imported(path, wrong):
    """The first cells, with what papermill injects, in a process that has the library already."""
    injected = parameterize_notebook(load_notebook_node(str(path)), wrong)
    parameters, given, check = (cell.source for cell in code_cells(injected)[:3])
    namespace = {}
    exec(parameters, namespace)
    exec(given, namespace)
    ((name, value),) = wrong.items()
    before = set(namespace)
    with pytest.raises(
        ValueError, match=rf"Unknown parameter '{name}'|{name} is .*, not '{value}'"
    ):
        exec(check, namespace)
    assert set(namespace) - before == {"check_parameters"}


def test_papermill_fails_with_a_wrong_parameter(tmp_path):
    how = {"cwd": str(FOLDER), "kernel_name": "python3", "progress_bar": False}
    with pytest.raises(PapermillExecutionError, match=r"ValueError.*sede") as failure:
        papermill.execute_notebook(
            str(FOLDER / "quickstart.ipynb"), str(tmp_path / "out.ipynb"), {"sede": 1}, **how
        )
    assert failure.value.exec_count <= 3
