r"""Weight vectors as their arrangement alone, near the fewest bits that can tell it.

Whoever has the initial values of a network that was trained by permuting them lacks only where each
value went. For a weight vector of d values, of which :math:`c_1, c_2, \dots` are equal, there are

.. math:: \frac{d!}{c_1!\, c_2! \cdots}

arrangements, so some need at least the binary logarithm of that number of bits. This coder comes
within a byte of it, and not for each vector but for a whole network.

Each place of a vector is coded in its turn, as one of the values that are still to be given out. If
n of them are left, and c of these are the one that the place holds, it takes :math:`\log_2 (n/c)`
bits, and the sum over all places is the logarithm above. A range coder turns such fractions of bits
into bytes: `range_coder`, and `compiled_coding` in a fraction of the time. It reckons in integers,
so a code is the same bytes on every platform. Rounding costs some :math:`n / 2^{56}` of a bit at a
place.

Values are told apart by their bits: -0 is not +0. One code holds any number of matrices, and ends
only once.

References:
    Cover, "Enumerative source encoding", IEEE Transactions on Information Theory 19, 1973.
"""

import math
from collections.abc import Sequence

import numpy as np

from laperm_lib.coding import compiled_coding


def encode(vectors: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
    """Code how the initial values of weight vectors are arranged.

    Args:
        vectors: matrices of shape (neurons, d), d below 2^31, one weight vector per row, of any
            dtype of 1, 2, 4 or 8 bytes.
        initial: for each of them the initial values, in any order within a row; same shape and
            dtype.

    Returns:
        The code, which is of no use without the initial values. It has up to 8 bits more than
        `bound_bits` says, and a millionth of one or so for rounding.

    Raises:
        ValueError: if the matrices do not go together, or a row is no permutation of its initial
            values.

    Examples:
        >>> start = np.arange(2000.0).reshape(2, 1000)
        >>> code = encode([start[:, ::-1]], [start])
        >>> 8 * len(code) - bound_bits([start]) < 9
        True
        >>> bool((decode(code, [start])[0] == start[:, ::-1]).all())
        True
    """
    if len(vectors) != len(initial):
        raise ValueError(f"{len(vectors)} matrices cannot be coded by {len(initial)} initial ones.")
    kinds = [
        _kinds(number, *pair) for number, pair in enumerate(zip(vectors, initial, strict=True))
    ]
    return compiled_coding.encode(kinds)


def decode(code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Undo `encode`: arrange initial values as a code says.

    Almost any bytes are the code of some arrangement, so damage is noticed only where it leaves
    none; files that hold codes hold a hash as well.

    Args:
        code: what `encode` gave.
        initial: as given to `encode`.

    Returns:
        The matrices, bit for bit.

    Raises:
        ValueError: if an initial value is not a matrix of such numbers.
        WeightFileError: if the code is not one of these initial values.

    Examples:
        >>> start = np.array([[1.0, 2.0, 3.0]])
        >>> decode(encode([start[:, [2, 0, 1]]], [start]), [start])[0].tolist()
        [[3.0, 1.0, 2.0]]
    """
    ordered = [np.sort(_as_bits(matrix), axis=-1) for matrix in initial]
    numbered = [_number(bits) for bits in ordered]
    arranged = compiled_coding.decode(code, numbered)
    decoded = []
    for values, numbers, kinds, matrix in zip(ordered, numbered, arranged, initial, strict=True):
        of_kind = np.zeros_like(values)
        np.put_along_axis(of_kind, numbers, values, axis=-1)
        decoded.append(np.take_along_axis(of_kind, kinds, axis=-1).view(matrix.dtype))
    return decoded


def bound_bits(initial: Sequence[np.ndarray]) -> float:
    """The binary logarithm of the number of arrangements of weight vectors.

    Args:
        initial: as given to `encode`.

    Returns:
        Bits. No code of all arrangements has fewer for each of them.

    Raises:
        ValueError: if an initial value is not a matrix of such numbers.

    Examples:
        >>> round(2 ** bound_bits([np.array([[1.0, 1.0, 2.0, 3.0]])]))
        12
    """
    return math.fsum(_bound(_as_bits(matrix)) for matrix in initial) / math.log(2)


def _bound(bits: np.ndarray) -> float:
    """The natural logarithm of the number of arrangements of one matrix."""
    neurons, d = bits.shape
    numbers = _number(np.sort(bits, axis=-1))
    # No two rows share a number now, so that all can be counted at once.
    counts = np.bincount((numbers + d * np.arange(neurons)[:, None]).ravel())
    sizes, how_often = np.unique(counts, return_counts=True)
    repeated = (n * math.lgamma(c + 1) for c, n in zip(sizes, how_often, strict=True))
    return neurons * math.lgamma(d + 1) - math.fsum(repeated)


def _as_bits(matrix: np.ndarray) -> np.ndarray:
    """The values as unsigned integers of their size."""
    has_bits = matrix.ndim == 2 and matrix.dtype.itemsize in (1, 2, 4, 8)
    if not has_bits or not matrix.size or matrix.shape[1] >= 2**31:
        raise ValueError(
            f"A matrix of numbers of 1 to 8 bytes is expected, got {matrix.dtype} {matrix.shape}."
        )
    return np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")


def _number(ordered: np.ndarray) -> np.ndarray:
    """Number the distinct values of sorted rows: 0 for the first, int32."""
    numbers = np.zeros(ordered.shape, np.int32)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=-1, out=numbers[:, 1:])
    return numbers


def _kinds(number: int, matrix: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """For each place the number of its value among the distinct ones of its row."""
    if matrix.shape != initial.shape or matrix.dtype != initial.dtype:
        raise ValueError(
            f"Matrix {number} is {matrix.dtype} {matrix.shape}, its initial values are "
            f"{initial.dtype} {initial.shape}."
        )
    bits = _as_bits(matrix)
    ordered = np.sort(_as_bits(initial), axis=-1)
    order = np.argsort(bits, axis=-1)
    if not np.array_equal(np.take_along_axis(bits, order, axis=-1), ordered):
        raise ValueError(f"Matrix {number} is not a permutation of its initial values.")
    kinds = np.empty(bits.shape, np.int32)
    np.put_along_axis(kinds, order, _number(ordered), axis=-1)
    return kinds
