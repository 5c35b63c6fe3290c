"""Train neural networks by permuting their initial weights, on Keras 3.

The companion library of "Train-by-Reconnect: Decoupling Locations of Weights from Their Values"
(Qiu and Suda, NeurIPS 2020). `laperm_lib.paper`, which reproduces it, is imported by itself.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from laperm_lib.errors import (
    LaPermError,
    NonFiniteWeightError,
    UnknownLayerError,
    WeightFileError,
)

if TYPE_CHECKING:
    from laperm_lib import (
        batch_statistics,
        batches,
        callbacks,
        checkpoints,
        initializers,
        permutation,
        sparsity,
        weight_vectors,
    )
    from laperm_lib.optimizers.laperm import LaPerm
    from laperm_lib.optimizers.rso import RSO
    from laperm_lib.optimizers.sgperm import SGPerm
    from laperm_lib.optimizers.sign_flip import SignFlip
    from laperm_lib.optimizers.signed_laperm import SignedLaPerm
    from laperm_lib.optimizers.switch import Switch
    from laperm_lib.storage import load_permutation, save_permutation

__version__ = "0.1.0"

__all__ = [
    "RSO",
    "LaPerm",
    "LaPermError",
    "NonFiniteWeightError",
    "SGPerm",
    "SignFlip",
    "SignedLaPerm",
    "Switch",
    "UnknownLayerError",
    "WeightFileError",
    "batch_statistics",
    "batches",
    "callbacks",
    "checkpoints",
    "gradient_flow",
    "initializers",
    "load_permutation",
    "permutation",
    "save_permutation",
    "sparsity",
    "weight_vectors",
]

_MODULES = {
    "LaPerm": "optimizers.laperm",
    "RSO": "optimizers.rso",
    "SGPerm": "optimizers.sgperm",
    "SignFlip": "optimizers.sign_flip",
    "SignedLaPerm": "optimizers.signed_laperm",
    "Switch": "optimizers.switch",
    "load_permutation": "storage",
    "save_permutation": "storage",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: `--backend` and notebook parameters are read before Keras is."""
    if name in _MODULES:
        module = importlib.import_module(f"laperm_lib.{_MODULES[name]}")
        value = globals()[name] = getattr(module, name)
        return value
    if name in __all__:
        return importlib.import_module(f"laperm_lib.{name}")
    raise AttributeError(f"module 'laperm_lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "keras" in sys.modules:  # Keras loads registered classes only, also if no name here is used
    for _module in ("laperm", "sgperm", "sign_flip", "signed_laperm", "switch"):
        importlib.import_module(f"laperm_lib.optimizers.{_module}")
    importlib.import_module("laperm_lib.initializers")
