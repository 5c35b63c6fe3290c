r"""A trained network as the permutation of its initial weights, in nearly the fewest bits possible.

Given the initial values of a network that was trained by permuting them, only where each went must
be stored. For a weight vector of d values, of which :math:`c_1, c_2, \dots` are equal, there are

.. math:: \frac{d!}{c_1!\, c_2! \cdots}

arrangements, so no code can be shorter, on average, than the binary logarithm of that number. This
one exceeds it by less than a byte for a whole network.

The places of a vector are coded one after the other, each as one of the n values not yet given out.
If c of these equal the value at the place, it takes :math:`\log_2 (n/c)` bits; the sum over all
places is the logarithm above. A range coder turns such fractions of bits into bytes. It keeps an
interval :math:`[l, l + s)`, :math:`2^{56} \le s < 2^{64}`. If b of the n values are less than the
one to be coded, the interval becomes the part that belongs to this value,

.. math::
    l \leftarrow l + b \lfloor s/n \rfloor, \qquad s \leftarrow c \lfloor s/n \rfloor,

and whenever s falls below :math:`2^{56}`, the top byte of l is written and both are multiplied by
256. A code ends with the shortest number in the last interval; trailing zeros are left out. It is
the same bytes on every platform. `tests/readable_range_coder.py` is the same coder in plain Python.

b and c come from a binary tree whose nodes hold how many values are left below them, so coding a
vector takes time of order d log d.

References:
    Cover, "Enumerative source encoding", IEEE Transactions on Information Theory 19, 1973.
    Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979.
"""

import math
from collections.abc import Sequence

import numpy as np

from laperm_lib._numba import compiled
from laperm_lib.errors import WeightFileError

_WINDOW = 8  # bytes of the interval's bounds; a decoder has read so many in advance
_MASK = 2 ** (8 * _WINDOW) - 1  # the largest number of so many bytes: the span at the start

# Numba turns a mixture of signed and unsigned integers into floats: the coder uses these alone.
_U64 = np.uint64
_LEAST_SPAN = _U64(2 ** (8 * _WINDOW - 8))
_BYTE = _U64(8)
_TOP_BYTE = _U64(8 * _WINDOW - 8)


def encode(vectors: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
    """Code how the initial values of weight vectors are arranged.

    Args:
        vectors: matrices of shape (neurons, d), d below 2^31, one weight vector per row, of any
            dtype of 1, 2, 4 or 8 bytes. Values are told apart by their bits: -0 is not +0.
        initial: for each of them the initial values, in any order within a row; same shape and
            dtype.

    Returns:
        The code of all matrices together, at most 8 bits longer than `bound_bits`, apart from about
        a millionth of a bit for rounding.

    Raises:
        ValueError: if the matrices do not match, or a row is no permutation of its initial values.

    Examples:
        >>> start = np.arange(2000.0).reshape(2, 1000)
        >>> code = encode([start[:, ::-1]], [start])
        >>> round(bound_bits([start])), 8 * len(code)
        (17059, 17064)
        >>> bool((decode(code, [start])[0] == start[:, ::-1]).all())
        True
    """
    if len(vectors) != len(initial):
        raise ValueError(f"{len(vectors)} matrices cannot be coded by {len(initial)} initial ones.")
    kinds = [
        _kinds(number, *pair) for number, pair in enumerate(zip(vectors, initial, strict=True))
    ]
    # A place takes at most log2 d bits.
    most_bits = sum(matrix.size * matrix.shape[1].bit_length() for matrix in kinds)
    code = np.empty(most_bits // 8 + 2 * _WINDOW, np.uint8)
    low, span, position = 0, _MASK, 0
    for matrix in kinds:
        # Numba returns Python integers, and would take them for signed ones.
        low, span, position = _encode_rows(matrix, code, _U64(low), _U64(span), position)
    end = _end(int(low), int(span))
    if end > _MASK:
        _carry(code, position)
    code[position : position + _WINDOW] = list((end & _MASK).to_bytes(_WINDOW))
    return code[: position + _WINDOW].tobytes().rstrip(b"\0")


def decode(code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Undo `encode`, bit for bit: arrange initial values as a code says.

    Almost any bytes are the code of some arrangement, so most damage goes unnoticed: keep a hash of
    the code, or of the weights, beside it. A WeightFileError if no arrangement has this code.

    Examples:
        >>> start = np.array([[1.0, 2.0, 3.0]])
        >>> decode(encode([start[:, [2, 0, 1]]], [start]), [start])[0].tolist()
        [[3.0, 1.0, 2.0]]
    """
    damaged = WeightFileError("The code is damaged: no arrangement of these initial values has it.")
    source = np.frombuffer(code, np.uint8)
    offset, span, position = _window(code, _WINDOW), _MASK, _WINDOW
    decoded = []
    for matrix in initial:
        values = np.sort(_as_bits(matrix), axis=-1)
        numbers = _number(values)
        kinds = np.empty_like(numbers)
        offset, span, position, fits = _decode_rows(
            numbers, source, _U64(offset), _U64(span), position, kinds
        )
        if not fits:
            raise damaged
        of_kind = np.zeros_like(values)
        np.put_along_axis(of_kind, numbers, values, axis=-1)
        decoded.append(np.take_along_axis(of_kind, kinds, axis=-1).view(matrix.dtype))
    seen = _window(code, position)
    low = (seen - int(offset)) & _MASK
    if len(code) > position or code.endswith(b"\0") or _end(low, int(span)) & _MASK != seen:
        raise damaged  # the encoder would have ended otherwise
    return decoded


def bound_bits(initial: Sequence[np.ndarray]) -> float:
    """log2 of the number of possible arrangements, in bits; no code can be shorter on average.

    Examples:
        >>> round(2 ** bound_bits([np.array([[1.0, 1.0, 2.0, 3.0]])]))
        12
    """
    return math.fsum(_bound(_as_bits(matrix)) for matrix in initial) / math.log(2)


def _bound(bits: np.ndarray) -> float:
    """The natural logarithm of the number of arrangements of one matrix."""
    neurons, d = bits.shape
    numbers = _number(np.sort(bits, axis=-1))
    # Different rows get different numbers, so all can be counted at once.
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


# -- the range coder ------------------------------------------------------------------------------


def _end(low: int, span: int) -> int:
    """The number in [low, low + span) that ends in most zero bytes; the least of such."""
    # Rounded up to multiples of 2^zeros.
    ends = (-(-low >> zeros) << zeros for zeros in range(8 * _WINDOW, -1, -8))
    return next(end for end in ends if end < low + span)


def _window(code: bytes, position: int) -> int:
    """The last bytes before a position, as a number; after its end, a code has zeros."""
    return int.from_bytes(code[position - _WINDOW : position].ljust(_WINDOW, b"\0"))


@compiled(inline="always")
def _plant(tree, kinds):  # type: ignore[no-untyped-def]
    """Count the kinds of a vector in a tree, whose leaves they are; how many leaves and kinds.

    `tree[1]` is the root, `tree[2 i]` and `tree[2 i + 1]` are the children of `tree[i]`.
    """
    most = np.int32(0)
    for i in range(len(kinds)):
        most = max(most, kinds[i])
    leaves = 1
    while leaves <= most:
        leaves *= 2
    for node in range(2 * leaves):
        tree[node] = 0
    for i in range(len(kinds)):
        tree[leaves + kinds[i]] += 1
    for node in range(leaves - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]
    return leaves, most + 1


@compiled(inline="always")
def _take(tree, leaf):  # type: ignore[no-untyped-def]
    """Take away one value of a kind; how many there are of lesser kinds."""
    lesser = 0
    node = leaf
    tree[node] -= 1
    while node > 1:
        if node & 1:
            lesser += tree[node - 1]
        node >>= 1
        tree[node] -= 1
    return lesser


@compiled(inline="always")
def _carry(code, position):  # type: ignore[no-untyped-def]
    """Add one to the number that the bytes before a position are."""
    place = position - 1
    while code[place] == 255:
        code[place] = 0
        place -= 1
    code[place] += np.uint8(1)


@compiled()
def _encode_rows(kinds, code, low, span, position):  # type: ignore[no-untyped-def]
    """Write the vectors of a matrix to `code[position:]`; the new low, span and position."""
    neurons, d = kinds.shape
    tree = np.empty(4 * d, np.int32)
    for row in range(neurons):
        leaves, distinct = _plant(tree, kinds[row])
        for i in range(d):
            if distinct == 1:  # all that are left are equal
                break
            leaf = leaves + kinds[row, i]
            count, total = tree[leaf], tree[1]
            lesser = _take(tree, leaf)
            distinct -= count == 1
            step = span // _U64(total)
            new = low + step * _U64(lesser)
            if new < low:  # the sum has left the 64 bits
                _carry(code, position)
            low = new
            span = step * _U64(count)
            while span < _LEAST_SPAN:
                code[position] = np.uint8(low >> _TOP_BYTE)
                position += 1
                low <<= _BYTE
                span <<= _BYTE
    return low, span, position


@compiled()
def _decode_rows(sorted_kinds, code, offset, span, position, kinds):  # type: ignore[no-untyped-def]
    """Read `kinds` from a code, as `offset` from the interval's start; the state after the matrix.

    The last of it is false if no arrangement has this code.
    """
    neurons, d = kinds.shape
    tree = np.empty(4 * d, np.int32)
    for row in range(neurons):
        leaves, distinct = _plant(tree, sorted_kinds[row])
        for i in range(d):
            target = np.int64(0)
            total = tree[1]
            step = span // _U64(total)
            if distinct > 1:
                quotient = offset // step
                if quotient >= _U64(total):
                    return offset, span, position, False
                target = np.int64(quotient)
            node = 1
            while node < leaves:
                node *= 2
                if target >= tree[node]:
                    target -= tree[node]
                    node += 1
            kinds[row, i] = node - leaves
            count = tree[node]
            lesser = _take(tree, node)
            if distinct > 1:
                distinct -= count == 1
                offset -= step * _U64(lesser)
                span = step * _U64(count)
                while span < _LEAST_SPAN:
                    byte = code[position] if position < len(code) else np.uint8(0)
                    offset = (offset << _BYTE) | _U64(byte)
                    position += 1
                    span <<= _BYTE
    return offset, span, position, True
