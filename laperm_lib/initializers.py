"""Initial values that are the same bits on every backend, platform and version.

LaPerm never changes the values of a network, only their places, so its initial values are the
result of a run as much as its cause. Keras's initializers draw from the backend: TensorFlow, JAX
and PyTorch give different values for one seed. Here raw random bits become numbers through IEEE
operations that are correctly rounded everywhere: addition, multiplication, division and the square
root.

References:
    He et al., ICCV 2015; Glorot and Bengio, AISTATS 2010.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from laperm_lib._random import check_seed, raw_bits

DISTRIBUTIONS = ("glorot_uniform", "he_normal", "he_uniform")
_LEVELS = re.compile(r"he_([2-9]|[1-9]\d{1,6})_levels")

# The standard deviation of a standard normal variable truncated to [-2, 2].
_TRUNCATED_STDDEV = 0.87962566103423978


@keras.saving.register_keras_serializable(package="laperm_lib")
class SeededInitializer(keras.initializers.Initializer):
    """He or Glorot initial values from a seed, bit for bit the same everywhere.

    The distributions and their scales are Keras's, with its fans: (in, out) for a dense kernel,
    both times the receptive field for a convolution, and `n`, `n` for a vector of `n`::

        he_uniform       uniform on (-l, l), l = sqrt(6 / fan_in)
        glorot_uniform   uniform on (-l, l), l = sqrt(6 / (fan_in + fan_out))
        he_normal        normal, standard deviation sqrt(2 / fan_in) after truncation at two of the
                         standard deviations before it
        he_n_levels      for a number n such as 2, n values from -l to l with equal gaps, each
                         equally likely, l = sqrt(6 (n - 1) / (n + 1) / fan_in): variance 2 / fan_in

    Uniform values are l times an odd multiple of 2^-24, so they are symmetric around zero and never
    zero: a zero weight of these networks is a pruned one, or one of an odd number of levels.
    Rounding to float32 can reach l itself.

    Args:
        distribution: "he_uniform", "he_normal", "glorot_uniform" or as "he_2_levels".
        seed: an integer of at least 0.
        stream: what is initialised, such as "conv2d_1/kernel"; different texts give independent
            values, the same text gives the same values again.

    Raises:
        ValueError: for any other argument.

    Examples:
        >>> initializer = SeededInitializer("he_uniform", seed=0, stream="dense/kernel")
        >>> weights = keras.ops.convert_to_numpy(initializer((784, 10)))
        >>> weights.shape, bool(abs(weights).max() <= (6 / 784) ** 0.5)
        ((784, 10), True)
    """

    def __init__(self, distribution: str, seed: int, stream: str) -> None:
        check_distribution(distribution)
        if not isinstance(stream, str):
            raise ValueError(f"A stream is named by a text, got {stream!r}.")
        self.distribution = distribution
        self.seed = check_seed(seed)
        self.stream = stream

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """A tensor of the values, computed as float32 and then cast to a floating-point dtype."""
        dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(f"Initial values are floating-point numbers, got dtype {dtype}.")
        return keras.ops.cast(keras.ops.convert_to_tensor(self.values(shape), "float32"), dtype)

    def values(self, shape: Sequence[int]) -> np.ndarray:
        """The same values as a float32 NumPy array of the given shape."""
        shape = tuple(shape)
        count = math.prod(shape)
        fan_in, fan_out = _fans(shape)
        bits = raw_bits(self.seed, self.stream)
        if self.distribution == "he_normal":
            scale = math.sqrt(2 / fan_in) / _TRUNCATED_STDDEV
            standard = _truncated_normal(bits, count)
        elif levels := _LEVELS.fullmatch(self.distribution):
            n = int(levels[1])
            scale = math.sqrt(6 * (n - 1) / (n + 1) / fan_in)
            number = np.floor((_symmetric_uniform(bits.random_raw(count)) + 1) / 2 * n)
            standard = (2 * number - (n - 1)) / (n - 1)
        else:
            fans = fan_in if self.distribution == "he_uniform" else fan_in + fan_out
            scale = math.sqrt(6 / fans)
            standard = _symmetric_uniform(bits.random_raw(count))
        return (standard * scale).astype(np.float32).reshape(shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"distribution": self.distribution, "seed": self.seed, "stream": self.stream}


def check_distribution(name: Any) -> None:
    """Raise a ValueError for what is no distribution of `SeededInitializer`."""
    if name not in DISTRIBUTIONS and not (isinstance(name, str) and _LEVELS.fullmatch(name)):
        raise ValueError(
            f"Unknown initializer {name!r}; there are {', '.join(DISTRIBUTIONS)}, and as "
            "he_2_levels for any number of values."
        )


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Connections into and out of one neuron, by Keras's rules."""
    if len(shape) < 2:
        size = max(1, math.prod(shape))
        return size, size
    receptive_field = math.prod(shape[:-2])
    return max(1, shape[-2] * receptive_field), max(1, shape[-1] * receptive_field)


def _symmetric_uniform(raw: np.ndarray) -> np.ndarray:
    """Odd multiples of 2^-24 in (-1, 1), float64 but exact in float32, from the top 24 bits."""
    top = (raw >> np.uint64(40)).astype(np.int64)
    return (2 * top + 1 - 2**24) * 2.0**-24


def _truncated_normal(bits: np.random.Philox, count: int) -> np.ndarray:
    """Standard normal values on (-2, 2), float64, by rejection: accept x if u < exp(-x^2 / 2).

    One 64-bit word makes one proposal: x of its top 24 bits and u of the other 40. About 60 % are
    accepted, in the order of the stream, so the result does not depend on the chunks.
    """
    accepted: list[np.ndarray] = []
    missing = count
    while missing > 0:
        raw = bits.random_raw(int(1.7 * missing) + 16)
        x = 2 * _symmetric_uniform(raw)
        u = (raw & np.uint64(2**40 - 1)).astype(np.float64) * 2.0**-40
        accepted.append(x[u < _exp_minus(x * x / 2)][:missing])
        missing -= len(accepted[-1])
    return np.concatenate(accepted) if accepted else np.empty(0)


def _exp_minus(y: np.ndarray) -> np.ndarray:
    """exp(-y) for 0 <= y <= 2 to about 1e-15; the last bit of a library's varies."""
    t = y * (-1 / 16)  # Taylor's series of exp(-y/16), and four squarings
    result = np.ones_like(t)
    for n in range(10, 0, -1):  # Horner: 1 + t (1 + t/2 (1 + t/3 (...)))
        result = 1 + t * (1 / n) * result
    for _ in range(4):
        result = result * result
    return result
