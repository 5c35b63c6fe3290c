"""Makes warnings errors in the project's own tests.

Not by pytest's settings, which would hold for people who validate the notebooks too: there, a
folder that cannot be written or another plugin is no reason to fail.
"""

import warnings

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
