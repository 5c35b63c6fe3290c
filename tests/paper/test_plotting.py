"""What all pictures have in common: no global setting changes, and one style has their colours."""

import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns

from laperm_lib.paper import plotting
from laperm_lib.paper._extras import extra

TWO = np.array([[1.0, 2.0], [0.0, 3.0]])


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plotting.vector_profile(TWO, ax=ax),
        lambda ax: plotting.training_curves({"a": {"val_accuracy": [1, 2]}}, ax=ax),
        lambda ax: plotting.over_seeds({"a": {1: [0.5]}}, ax=ax),
        lambda ax: plotting.permutation_trace(TWO, TWO, ax=ax),
        lambda ax: plotting.permutation_trace(TWO[0], TWO[0], ax=ax),
        lambda ax: plotting.synchronisation_steps(TWO[0], TWO[1]) and ax,
        lambda ax: (
            plotting.cycle_search(*TWO, np.arange(2), size=2, alpha=1.0, initial_range=1.0) and ax
        ),
    ],
)
def test_a_picture_is_drawn_on_the_given_axes_and_no_setting_changes(draw):
    before = matplotlib.rcParams.copy()
    _, (_, right) = plt.subplots(1, 2)
    assert draw(right) is right
    assert matplotlib.rcParams == before


def test_the_style_of_the_book_has_the_colours_of_the_library():
    with plt.style.context("laperm_lib.paper.plotting.book"):
        styled = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    own = sns.color_palette("colorblind")
    assert len(styled) == len(own)
    assert all(map(matplotlib.colors.same_color, styled, own))


def test_a_missing_package_is_named_with_its_extra_and_a_missing_module_is_none(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("laperm_lib.paper.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "seaborn", None)
    with pytest.raises(ImportError, match=r'^seaborn .* pip install "laperm-lib\[paper\]"$'):
        import laperm_lib.paper.plotting
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), extra("paper"):
        import laperm_lib.no_such_module  # noqa: F401
