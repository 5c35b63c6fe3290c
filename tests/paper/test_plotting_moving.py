"""Animated pictures are read back, frame by frame."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from laperm_lib.paper.plotting import moving_picture


def squares(levels, size=1):
    """A figure of one grey level for each."""
    for level in levels:
        figure = plt.figure(figsize=(size, size))
        figure.patch.set_facecolor(str(level))
        yield figure


def test_pictures_come_back_in_order_and_the_last_stands_for_all():
    data = moving_picture(squares([0.0, 0.4, 1.0]), seconds=0.1, pause=1.5, dpi=50)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (50, 50)
        assert picture.n_frames == 4
        levels, durations = [], []
        for frame in range(4):
            picture.seek(frame)
            levels.append(np.asarray(picture.convert("L")).mean() / 255)
            durations.append(picture.info.get("duration"))
    assert levels == pytest.approx([1.0, 0.0, 0.4, 1.0], abs=0.01)
    assert durations[1:] == [100, 100, 1500]
    assert plt.get_fignums() == []


def test_figures_are_taken_one_by_one():
    def watched():
        for figure in squares([0.0, 0.5, 1.0]):
            assert len(plt.get_fignums()) == 1
            yield figure

    assert moving_picture(watched())


@pytest.mark.parametrize(
    ("figures", "message"),
    [(lambda: iter(()), "no figure"), (lambda: [*squares([0]), *squares([0], size=2)], "size")],
)
def test_what_is_no_moving_picture(figures, message):
    with pytest.raises(ValueError, match=message):
        moving_picture(figures())
