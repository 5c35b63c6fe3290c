"""A training step of conv6 with Adam on each framework, beside a matrix product of as many FLOPs.

    python benchmarks/frameworks.py --model conv6_64 --precision mixed_bfloat16

Each way is measured in a process of its own, in turn, several times over; the table has medians.
It needs an environment with TensorFlow, JAX and PyTorch, as `make test-backends` makes one
(`.venv-backends`). `compiled` PyTorch needs a C++ compiler.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np

WAYS = (
    "TensorFlow, the experiments' own",
    "TensorFlow, layers and Adam of Keras",
    "JAX",
    "PyTorch, eager",
    "PyTorch, compiled",
    "matrix product",
)
FILTERS = {"conv6_32": (32, 64, 64), "conv6_64": (64, 128, 256)}
BATCH, STEPS = 250, 8


def macs(filters: tuple[int, ...]) -> int:
    """Multiplications of an image's forward pass, those of the fixed layer included."""
    total, side, channels = 31 * 31 * 2 * 2 * 3 * 24, 31, 24
    for count in filters:
        for number in range(2):
            total += side * side * 9 * channels * count
            side, channels = side if number else side // 2, count
    return total + channels * 10


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, BATCH * STEPS)


def of_keras(model: str, precision: str, backend: str, own: bool) -> float:
    os.environ.update(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="1")
    import keras

    from laperm_lib.paper import architectures, fused, networks

    if not own:
        architectures.BatchNormalization = keras.layers.BatchNormalization
    built = networks.build(model, seed=0, dtype=precision)
    adam = fused.Adam if own else keras.optimizers.Adam
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(adam(2e-3), loss=loss, jit_compile=backend == "jax")
    x, y = data()
    built.fit(x, y, batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    built.fit(x, y, batch_size=BATCH, verbose=0)
    return (time.perf_counter() - started) / STEPS


def of_torch(model: str, precision: str, compiled: bool) -> float:
    import torch
    from torch import nn

    torch.manual_seed(0)
    whitening = nn.Conv2d(3, 24, 2, bias=False)
    whitening.weight.requires_grad_(False)
    layers, channels = [whitening, nn.GELU()], 24
    for count in FILTERS[model]:
        for number in range(2):
            layers.append(nn.Conv2d(channels, count, 3, padding=1, bias=False))
            layers += [] if number else [nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(count), nn.GELU()]
            channels = count
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 10, bias=False)]
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 2e-3, fused=True)
    forward = torch.compile(net) if compiled else net
    x, y = data()
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    classes = torch.from_numpy(y)

    def step(number: int) -> None:
        part = slice(number * BATCH, (number + 1) * BATCH)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            logits = forward(images[part]) / 9
        nn.functional.cross_entropy(logits.float(), classes[part]).backward()
        optimizer.step()

    for number in range(STEPS):
        step(number)
    started = time.perf_counter()
    for number in range(STEPS):
        step(number)
    return (time.perf_counter() - started) / STEPS


def of_product(model: str, precision: str) -> float:
    """A product of square matrices, at the rate of which a step's FLOPs would take so long."""
    import torch

    n = 4096
    dtype = torch.bfloat16 if precision == "mixed_bfloat16" else torch.float32
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    for _ in range(3):
        a @ b
    started = time.perf_counter()
    for _ in range(5):
        a @ b
    rate = 5 * n**3 / (time.perf_counter() - started)
    # Backwards twice as much, but for the fixed layer and the gradient of what it gives.
    fixed = 31 * 31 * 2 * 2 * 3 * 24
    first = 31 * 31 * 9 * 24 * FILTERS[model][0]
    return BATCH * (3 * macs(FILTERS[model]) - 2 * fixed - first) / rate


def measure(way: str, model: str, precision: str) -> float:
    if way.startswith("PyTorch"):
        return of_torch(model, precision, way.endswith("compiled"))
    if way == "matrix product":
        return of_product(model, precision)
    backend = "jax" if way == "JAX" else "tensorflow"
    return of_keras(model, precision, backend, own=not way.endswith("Keras"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=FILTERS, default="conv6_64")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way:
        print(measure(options.way, options.model, options.precision))
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, found in seconds.items():
            given = ["--model", options.model, "--precision", options.precision, "--way", way]
            done = subprocess.run(
                [sys.executable, __file__, *given], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{way}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                found.append(float(done.stdout.split()[-1]))
    product = statistics.median(seconds["matrix product"])
    print(
        f"| {options.model}, {options.precision} | ms per step | share of the product's rate, % |"
    )
    print("|---|---|---|")
    for way, found in seconds.items():
        if found:
            middle = statistics.median(found)
            print(f"| {way} | {1e3 * middle:.0f} | {100 * product / middle:.0f} |")


if __name__ == "__main__":
    main()
