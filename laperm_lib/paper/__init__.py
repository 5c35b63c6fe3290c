"""The paper's laboratory: its networks and data, the experiments, their records and figures.

Above the library: nothing in `laperm_lib` outside of this folder imports from it.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laperm_lib.paper import datasets, networks, notebooks, plotting, studies
    from laperm_lib.paper.pretrained import load_pretrained
    from laperm_lib.paper.published import load_published

__all__ = [
    "datasets",
    "load_pretrained",
    "load_published",
    "networks",
    "notebooks",
    "plotting",
    "studies",
]

# Read by TensorFlow when it is imported. On processors without AVX-512 it leaves oneDNN's
# convolutions off, with which a step of conv7 takes 78 ms in place of 142, on two cores with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_LOADERS = {"load_pretrained": "pretrained", "load_published": "published"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: notebook parameters are checked before Keras is imported."""
    if name in _LOADERS:
        module = importlib.import_module(f"laperm_lib.paper.{_LOADERS[name]}")
        value = globals()[name] = getattr(module, name)
        return value
    if name in __all__:
        return importlib.import_module(f"laperm_lib.paper.{name}")
    raise AttributeError(f"module 'laperm_lib.paper' has no attribute {name!r}")


if "keras" in sys.modules:  # Keras loads registered classes only, also if no name here is used
    importlib.import_module("laperm_lib.paper.networks")
