"""What is set before anything imports Keras: the backend of the command line, TensorFlow's kernels.

Keras reads KERAS_BACKEND once, when it is imported, and any import of this package imports it. So
the option of `python -m laperm_lib ... --backend jax` is looked for before that, in the words of
the command line, and only there. The same goes for how much TensorFlow logs.

On x86 processors without AVX-512 TensorFlow leaves the convolutions of oneDNN off unless it is
asked for them. Whatever TF_ENABLE_ONEDNN_OPTS says already holds, and so does what TensorFlow has
read from it where it was imported before this package.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence

BACKENDS = ("tensorflow", "jax", "torch")
"""What Keras can compute with."""


def choose(process: Sequence[str], arguments: Sequence[str]) -> None:
    """Set KERAS_BACKEND as the command line says, if it is the one of this package.

    Args:
        process: how the interpreter was started, as `sys.orig_argv`.
        arguments: `sys.argv`, which while Python looks for the package that `-m` names begins with
            "-m" itself.

    Raises:
        SystemExit: if that backend is not installed.

    Examples:
        >>> choose(["python", "script.py", "--backend", "jax"], ["script.py", "--backend", "jax"])
    """
    if arguments[:1] != ["-m"] or process[-len(arguments)] not in ("laperm_lib", "-mlaperm_lib"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name = following if word == "--backend" else word.removeprefix("--backend=")
        if word.startswith("--backend") and name in BACKENDS:  # the parser refuses any other
            if importlib.util.find_spec(name) is None:
                raise SystemExit(f"laperm_lib: --backend {name}, but {name} is not installed here.")
            os.environ["KERAS_BACKEND"] = name


# Without them a step of conv7 takes 142 ms, with them 78 ms, on two cores with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
choose(sys.orig_argv, getattr(sys, "argv", []))
