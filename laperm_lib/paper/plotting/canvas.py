"""What the pictures have in common: axes to draw on, and values that can be drawn."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from laperm_lib.errors import NonFiniteWeightError


def axes(ax: Axes | None) -> Axes:
    """The given axes, or new ones."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """The values, if there are any and all are finite."""
    if values.size == 0:
        raise ValueError(f"{what} is empty.")
    if not np.isfinite(values).all():
        raise NonFiniteWeightError(f"{what} holds a NaN or an infinity.")
    return values


def evenly_spaced(length: int, most: int) -> np.ndarray:
    """Up to so many places of a vector, evenly spaced, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))
