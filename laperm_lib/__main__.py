"""`python -m laperm_lib`: the command line of `laperm_lib.paper`, the one arrow up."""

import atexit
import importlib.util
import os
import sys
import time
from collections.abc import Sequence

from laperm_lib.paper import quiet

_BEGAN = time.perf_counter()


def choose_backend(arguments: Sequence[str]) -> None:
    """Set KERAS_BACKEND as `--backend` says: Keras reads it when it is imported."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name = following if word == "--backend" else word.removeprefix("--backend=")
        if word.startswith("--backend") and name in ("tensorflow", "jax", "torch"):
            if importlib.util.find_spec(name) is None:
                raise SystemExit(f"laperm_lib: --backend {name}, but {name} is not installed here.")
            os.environ["KERAS_BACKEND"] = name


if __name__ == "__main__":
    choose_backend(sys.argv[1:])
    log = quiet.redirect()
    try:
        from laperm_lib.paper.command_line import main

        status = main(began=_BEGAN)
    except Exception:
        atexit.unregister(quiet.delete)
        print(f"laperm_lib: what libraries have logged is in {log}", file=sys.stderr)  # noqa: T201
        raise
    sys.exit(status)
