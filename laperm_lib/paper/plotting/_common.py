"""What the pictures share: axes, checked values, a few points of a long line, and pixels."""

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from laperm_lib.errors import NonFiniteWeightError


def new_axes() -> Axes:
    """The only axes of a new figure."""
    return plt.subplots(layout="constrained")[1]


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values, if there are any and all are finite."""
    if values.size == 0:
        raise ValueError(f"{what} is empty.")
    if not np.isfinite(values).all():
        raise NonFiniteWeightError(f"{what} contains a NaN or an infinity.")
    return values


def evenly_spaced(length: int, most: int) -> np.ndarray:
    """At most so many places of a vector, evenly spaced, including both ends."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def picture(figure: Figure, dpi: float) -> Image.Image:
    """A figure in pixels; it is closed."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    plt.close(figure)
    with Image.open(stream) as drawn:
        return drawn.convert("RGB")
