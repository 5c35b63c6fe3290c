"""Set-up shared by the benchmarks: a quiet TensorFlow, and what the numbers were measured with."""

import importlib
import os
import platform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as laperm_lib does


def pytest_benchmark_update_machine_info(config, machine_info):
    import keras
    import numpy

    backend = importlib.import_module(keras.backend.backend())
    machine_info["versions"] = {
        "python": platform.python_version(),
        "keras": keras.version(),
        keras.backend.backend(): backend.__version__,
        "numpy": numpy.__version__,
    }
