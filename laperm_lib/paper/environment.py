"""What a run is made with: versions, hardware and code revision."""

import importlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import keras
import numpy as np

from laperm_lib import _backend

_CPU_INFO = Path("/proc/cpuinfo")
_CHECKOUT = Path(__file__).resolve().parents[2]
_THEN = ", then "


@cache
def environment() -> dict[str, str]:
    """Versions, hardware and code revision, as far as they are known, when first asked for.

    The revision is the commit of this checkout, with "-dirty" where files have been changed since.
    """
    backend = _backend.name()
    module = importlib.import_module(backend)
    return {
        "python": platform.python_version(),
        "keras": keras.version(),
        backend: str(module.__version__),  # torch has a class of its own for it
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": _processor(_CPU_INFO),
        "cores": str(os.cpu_count()),
        "accelerators": "; ".join(_backend.accelerators()) or "none",
        "system": platform.system(),
        "revision": _revision(_CHECKOUT) or "unknown",
    }


def joined(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The environment of an interrupted run: where it differs later, both values in that order.

    >>> joined({"numpy": "2.4.6", "cores": "2"}, {"numpy": "2.5.0", "cores": "2"})
    {'numpy': '2.4.6, then 2.5.0', 'cores': '2'}
    """
    together = dict(before)
    for name, value in now.items():
        known = together.get(name, value)
        latest = known.rsplit(_THEN, 1)[-1]
        together[name] = known if latest == value else known + _THEN + value
    return together


def _processor(information: Path) -> str:
    """The name of the processor: Linux tells it, and Python elsewhere as well as it can."""
    try:
        lines = information.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


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
