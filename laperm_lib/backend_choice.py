"""`python -m laperm_lib ... --backend jax`: Keras's backend, chosen before anything imports Keras.

Keras reads KERAS_BACKEND once, when it is imported, and any import of this package imports it. So
the option is looked for before that, in the words of the command line, and only there. The same
goes for how much TensorFlow logs.
"""

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

    Examples:
        >>> choose(["python", "script.py", "--backend", "jax"], ["script.py", "--backend", "jax"])
    """
    if arguments[:1] != ["-m"] or process[-len(arguments)] not in ("laperm_lib", "-mlaperm_lib"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name = following if word == "--backend" else word.removeprefix("--backend=")
        if word.startswith("--backend") and name in BACKENDS:  # the parser refuses any other
            os.environ["KERAS_BACKEND"] = name


choose(sys.orig_argv, getattr(sys, "argv", []))
