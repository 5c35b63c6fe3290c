"""Animations: figures shown one after the other, in a PNG file that browsers play."""

import io
from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from laperm_lib.paper.plotting._common import picture

_COLOURS = 64  # figures have few, and the file is a fifth of the size
_DOTS_PER_INCH = 100
_PAUSE = 2.0  # seconds for which the last picture stays


def animation(figures: Iterable[Figure], *, seconds: float = 0.2) -> bytes:
    """Join figures into an animated PNG (APNG) that plays in a loop.

    The last picture stays for two seconds, and alone stands for all where nothing can move, as in
    print.

    Args:
        figures: figures of one size, taken one by one; each is closed once it is drawn.
        seconds: how long each is shown. Default: 0.2.

    Returns:
        The file, as `IPython.display.Image` takes it.

    Raises:
        ValueError: if there are no figures, or their sizes differ.

    Examples:
        >>> import matplotlib.pyplot as plt
        >>> def figures():
        ...     for height in (1, 2):
        ...         figure, ax = plt.subplots(figsize=(1, 1))
        ...         bars = ax.bar([0], [height])
        ...         yield figure
        >>> with Image.open(io.BytesIO(animation(figures()))) as picture:
        ...     picture.format, picture.n_frames - 1  # and one for where nothing moves
        ('PNG', 2)
    """
    pictures = [picture(figure, _DOTS_PER_INCH) for figure in figures]
    if not pictures:
        raise ValueError("There is no figure to show.")
    if len({each.size for each in pictures}) > 1:
        raise ValueError("The figures differ in size.")
    # One palette for all, stored once: that of a picture of all of them, thinned.
    strip = np.concatenate([np.asarray(each)[::3, ::3] for each in pictures])
    palette = Image.fromarray(strip).quantize(_COLOURS)
    pictures = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    durations = [1000 * seconds] * (len(pictures) - 1) + [1000 * _PAUSE]
    stream = io.BytesIO()
    pictures[-1].save(
        stream, "PNG", save_all=True, append_images=pictures, default_image=True,
        duration=durations, loop=0,
    )  # fmt: skip
    return stream.getvalue()
