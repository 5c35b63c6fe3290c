"""Set-up shared by all tests; runs before any of them imports Keras or Matplotlib."""

import gc
import logging
import os
import shutil
import warnings
from pathlib import Path

# Read by TensorFlow when it is first imported, here and in the kernels of the notebook tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as laperm_lib does, which many import later
# Processes of pytest-xdist share the cores: threads waiting for those of another double the time of
# a small network's step.
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = str(max(1, (os.cpu_count() or 1) // int(processes)))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)

import built_book
import matplotlib
import numpy as np
import pytest
from hypothesis import settings

# Not through $MPLBACKEND: notebook kernels would inherit it and draw no figures.
matplotlib.use("Agg")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Not in pytest's settings, where they would hold for people who only validate the notebooks too: a
# folder that cannot be written, or another plugin, is no reason to fail.
STRICT = pytest.mark.filterwarnings(
    "error",
    # Keras 3.15 turns TensorFlow variables into NumPy arrays the old way.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


def pytest_configure(config):
    """Imports TensorFlow where tests are run, not in the process that deals them out."""
    deals = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if not deals:
        terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # TensorFlow speaks of oneDNN
        import keras

        if keras.backend.backend() == "tensorflow":
            import data_without_autotuning  # noqa: F401
        os.dup2(terminal, 2)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of many traced networks


def pytest_collection_modifyitems(items):
    """Tests and doctests; the marks that one has itself come after this one, and prevail."""
    for item in items:
        if item.path.suffix == ".py":
            item.add_marker(STRICT, append=False)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """The modules that are imported for them."""
    with warnings.catch_warnings():
        if collector.path.suffix == ".py":
            warnings.simplefilter("error")
        return (yield)


def pytest_collection_finish():
    """What has been imported is not looked through again by each collection and build."""
    gc.freeze()


settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds book/, notebooks/ and laperm_lib/."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def html(tmp_path_factory, worker_id):
    """The folder of the book's pages, built once for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return built_book.build_once((folder if worker_id == "master" else folder.parent) / "book")


@pytest.fixture(scope="module")
def browser():
    """Chromium, with no way to other machines; any on this one will do, Playwright's or not."""
    no_browser = "no browser is driven: Playwright is not installed"
    sync_api = pytest.importorskip("playwright.sync_api", reason=no_browser)
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")
    with sync_api.sync_playwright() as playwright:
        # As root in a container, without a screen; names of other machines are not known.
        options = ["--no-sandbox", "--disable-gpu"]
        options.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        opened = playwright.chromium.launch(executable_path=executable, args=options)
        yield opened
        opened.close()


@pytest.fixture
def data_dir():
    """A function that gives the data folder when it holds the named file, and skips otherwise."""

    def require(filename: str) -> Path:
        folder = os.environ.get("LAPERM_DATA_DIR")
        if not folder:
            pytest.skip(f"needs {filename}: set LAPERM_DATA_DIR to the folder that holds it")
        if not Path(folder, filename).is_file():
            pytest.skip(f"needs {filename}, which is not in LAPERM_DATA_DIR={folder}")
        return Path(folder)

    return require


def pytest_runtest_setup(item):
    """A test draws the same numbers whichever tests have run before it."""
    if hasattr(getattr(item, "module", None), "RNG"):
        item.module.RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_leaked_figures():
    """Closes the figures a test has drawn."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
