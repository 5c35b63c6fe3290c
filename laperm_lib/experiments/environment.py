"""What a run is made with: versions, hardware and code revision."""

import importlib
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import keras
import numpy as np

_CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def environment() -> dict[str, str]:
    """Versions, hardware and code revision, as far as they are known, when first asked for.

    The revision is the commit of the checkout that this code lies in, with "-dirty" where files
    have been changed since; "unknown" for an installed package, or without git.
    """
    backend = keras.backend.backend()
    module = importlib.import_module(backend)
    return {
        "python": platform.python_version(),
        "keras": keras.version(),
        backend: module.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "revision": _revision(_CHECKOUT) or "unknown",
    }


def _revision(checkout: Path) -> str:
    # Git would also take a repository around it, in which an environment with this package lies.
    if not (checkout / ".git").exists():
        return ""
    try:
        return subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
    except OSError:  # there is no git
        return ""
