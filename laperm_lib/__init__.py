"""Train neural networks by permuting their initial weights, on Keras 3.

The companion library of "Train-by-Reconnect: Decoupling Locations of Weights from Their Values"
(Qiu and Suda, NeurIPS 2020).
"""

import importlib
from types import ModuleType

# First, for Keras reads the choice when it is imported, and the modules below import it.
from laperm_lib import backend_choice as backend_choice  # isort: split

from laperm_lib import (
    callbacks,
    constraints,
    datasets,
    initializers,
    metrics,
    models,
    permutation,
    sparsity,
    weight_vectors,
)
from laperm_lib.errors import (
    DatasetUnavailableError,
    LaPermError,
    NonFiniteWeightError,
    UnknownLayerError,
    WeightFileError,
)
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.optimizers.rso import RSO
from laperm_lib.optimizers.sgperm import SGPerm
from laperm_lib.pretrained import load_pretrained
from laperm_lib.published import load_published

__version__ = "0.1.0"

__all__ = [
    "RSO",
    "DatasetUnavailableError",
    "LaPerm",
    "LaPermError",
    "NonFiniteWeightError",
    "SGPerm",
    "UnknownLayerError",
    "WeightFileError",
    "callbacks",
    "constraints",
    "datasets",
    "experiments",
    "initializers",
    "load_pretrained",
    "load_published",
    "metrics",
    "models",
    "permutation",
    "plotting",
    "sparsity",
    "studies",
    "weight_vectors",
]

_ON_DEMAND = ("experiments", "plotting", "studies")


def __getattr__(name: str) -> ModuleType:
    """Import what only some users need (drawing needs Matplotlib) when it is first asked for."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"laperm_lib.{name}")
    raise AttributeError(f"module 'laperm_lib' has no attribute {name!r}")
