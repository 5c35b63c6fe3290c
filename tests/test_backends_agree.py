"""TensorFlow, JAX and torch train the same network from the same start.

Each backend runs in a process of its own. Dropout masks come from the backends' own generators and
differ, so dropout is switched off; everything else of the networks is as in the paper. Gradients
differ in the last bits, and Adam's first steps, which are mostly signs, make much of those that
should be 0; so losses are compared ever more loosely from step to step.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = [
    name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name) is not None
]
OTHERS = [name for name in BACKENDS if name != "tensorflow"]

TRAIN = """
import hashlib, json, sys
import keras, numpy as np
from laperm_lib import LaPerm
from laperm_lib.paper import networks as models

BATCH = 8

def fingerprint(arrays):
    return [hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in arrays]

def values(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]

def build(name):
    model = models.build(name, seed=3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model

class Losses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.total, self.each = 0.0, []

    def on_train_batch_end(self, batch, logs=None):
        mean = float(logs["loss"])
        self.each.append(mean * (batch + 1) - self.total)
        self.total = mean * (batch + 1)

def train(name):
    model = build(name)
    generator = np.random.default_rng(0)
    x = generator.random((3 * BATCH, *model.input_shape[1:]), dtype="float32")
    y = generator.integers(0, 10, size=len(x))
    report = {"start": fingerprint(model.get_weights())}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = LaPerm(keras.optimizers.Adam(1e-3), 2)
    model.compile(optimizer, loss=loss)
    losses = Losses()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[losses])
    report["losses"] = losses.each
    report["permutation"] = optimizer.is_permutation()

    # The same trained weights, synchronised within a step that changes nothing else.
    model = build(name)
    optimizer = LaPerm(keras.optimizers.SGD(0.0), 1)
    optimizer.capture(model)
    for variable in optimizer.permuted_variables:
        noise = generator.normal(scale=0.1, size=variable.shape).astype("float32")
        variable.assign(keras.ops.convert_to_numpy(variable) + noise)
    report["trained"] = fingerprint(values(optimizer.permuted_variables))
    model.compile(optimizer, loss=loss)
    model.train_on_batch(x[:BATCH], y[:BATCH])
    report["synchronised"] = fingerprint(values(optimizer.permuted_variables))
    return report

with open(sys.argv[1], "w") as file:
    json.dump({name: train(name) for name in sys.argv[2:]}, file)
"""

NO_TENSORFLOW = """
import importlib, pkgutil, sys

sys.modules["tensorflow"] = None  # importing it is an error

import laperm_lib

for module in pkgutil.walk_packages(laperm_lib.__path__, "laperm_lib."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def run(backend, program, *arguments):
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{backend}: {done.stderr}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(["f2", "conv7"], id="f2 conv7"),
        pytest.param(["conv2", "resnet50"], id="conv2 resnet50", marks=pytest.mark.slow),
    ],
)
def reports(request, tmp_path_factory):
    """By network, a list of what each backend reports."""
    if len(BACKENDS) < 2:
        pytest.skip(f"only {BACKENDS[0]} is installed: make test-backends compares all three")
    folder = tmp_path_factory.mktemp("reports")
    by_backend = []
    for backend in BACKENDS:
        run(backend, TRAIN, folder / backend, *request.param)
        by_backend.append(json.loads((folder / backend).read_text()))
    return {name: [report[name] for report in by_backend] for name in request.param}


def test_losses_agree_and_all_else_is_the_same_bits(reports):
    for name, (first, *others) in reports.items():
        assert first["trained"] != first["synchronised"]
        for bits in ("start", "trained", "synchronised"):
            assert all(other[bits] == first[bits] for other in others), f"{name}, {bits}"
        assert all(report["permutation"] for report in reports[name])
        losses = np.array([report["losses"] for report in reports[name]])
        for step, tolerance in enumerate([1e-5, 1e-3, 1e-2]):
            expected, message = np.median(losses[:, step]), f"{name}, step {step + 1}"
            np.testing.assert_allclose(losses[:, step], expected, tolerance, err_msg=message)


@pytest.mark.parametrize("backend", OTHERS or ["jax"])
def test_the_other_backends_do_without_tensorflow(backend):
    if not OTHERS:
        pytest.skip("only tensorflow is installed: make test-backends runs JAX and torch too")
    run(backend, NO_TENSORFLOW)
