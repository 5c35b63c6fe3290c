"""Animations are read back, frame by frame."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from laperm_lib.paper.plotting import animation


def squares(levels, size=1):
    """A figure of one grey level for each, made when the one before is closed."""
    before = len(plt.get_fignums())
    for level in levels:
        assert len(plt.get_fignums()) == before
        figure = plt.figure(figsize=(size, size))
        figure.patch.set_facecolor(str(level))
        yield figure


def test_pictures_come_back_in_order_and_the_last_stands_for_all():
    before = len(plt.get_fignums())
    with Image.open(io.BytesIO(animation(squares([0.0, 0.4, 1.0]), seconds=0.1))) as picture:
        assert picture.size == (100, 100)
        assert picture.n_frames == 4
        levels, durations = [], []
        for frame in range(4):
            picture.seek(frame)
            levels.append(np.asarray(picture.convert("L")).mean() / 255)
            durations.append(picture.info.get("duration"))
    assert levels == pytest.approx([1.0, 0.0, 0.4, 1.0], abs=0.01)
    assert durations[1:] == [100, 100, 2000]
    assert len(plt.get_fignums()) == before


def test_no_figures_and_figures_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="no figure"):
        animation([])
    with pytest.raises(ValueError, match="size"):
        animation(figure for size in (1, 2) for figure in squares([0], size))
