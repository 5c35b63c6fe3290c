"""Train neural networks by permuting their initial weights, on Keras 3.

The companion library of "Train by Reconnect: Decoupling Locations of Weights from Their Values"
(Qiu and Suda, NeurIPS 2020).
"""

from laperm_lib import weight_vectors
from laperm_lib.errors import (
    LaPermError,
    NonFiniteWeightError,
    UnknownLayerError,
)
from laperm_lib.optimizers.laperm import LaPerm

__version__ = "0.1.0"

__all__ = [
    "LaPerm",
    "LaPermError",
    "NonFiniteWeightError",
    "UnknownLayerError",
    "weight_vectors",
]
