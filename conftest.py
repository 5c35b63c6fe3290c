"""What holds in the whole checkout, also for people who only validate the notebooks.

Warnings are errors in the project's own tests. pytest's settings would make them errors for those
people too: a folder that cannot be written, or another plugin, is no reason to fail.
"""

import warnings

# Kernels inherit the folder that it finds where HOME cannot be written. They need not look for one,
# nor for fonts, which Matplotlib would mention among a cell's outputs.
import matplotlib.font_manager  # noqa: F401
import pytest

STRICT = pytest.mark.filterwarnings(
    "error",
    # Keras 3.15 turns TensorFlow variables into NumPy arrays the old way.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


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
