"""Moving pictures: figures one after the other, in a PNG file that browsers play."""

import io
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_COLOURS = 64  # figures have few, and the file is a fifth of the size


def moving_picture(
    figures: Iterable[Figure], *, seconds: float = 0.2, pause: float = 2.0, dpi: float = 100
) -> bytes:
    """Join figures into an animated PNG (APNG), which plays again and again.

    Where pictures cannot move, in print for one, the last of them is shown.

    Args:
        figures: of one size, taken one by one; each is closed behind its picture.
        seconds: how long each is shown. Default 0.2.
        pause: how long the last is shown. Default 2.
        dpi: pixels per inch. Default 100.

    Returns:
        The file, as `IPython.display.Image` takes it.

    Raises:
        ValueError: if there are none, or their sizes differ.

    Examples:
        >>> def figures():
        ...     for height in (1, 2):
        ...         figure, ax = plt.subplots(figsize=(1, 1))
        ...         bars = ax.bar([0], [height])
        ...         yield figure
        >>> with Image.open(io.BytesIO(moving_picture(figures()))) as picture:
        ...     picture.format, picture.n_frames - 1  # beside the one for where nothing moves
        ('PNG', 2)
    """
    pictures = []
    for figure in figures:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=dpi)
        plt.close(figure)
        with Image.open(stream) as picture:
            pictures.append(picture.convert("RGB"))
    if not pictures:
        raise ValueError("There is no figure to show.")
    if len({picture.size for picture in pictures}) > 1:
        raise ValueError("The figures differ in size.")
    # One palette for all, which the file has once: that of a picture of all of them, made small.
    strip = np.concatenate([np.asarray(picture)[::3, ::3] for picture in pictures])
    palette = Image.fromarray(strip).quantize(_COLOURS)
    pictures = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    shown = [1000 * seconds] * (len(pictures) - 1) + [1000 * pause]
    whole = io.BytesIO()
    pictures[-1].save(
        whole,
        format="PNG",
        save_all=True,
        append_images=pictures,
        default_image=True,
        duration=shown,
        loop=0,
    )
    return whole.getvalue()
