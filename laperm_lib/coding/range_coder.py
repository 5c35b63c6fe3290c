r"""The range coder of `laperm_lib.coding`, in Python with whole numbers, written for reading.

It keeps an interval :math:`[l, l + s)`, :math:`2^{56} \le s < 2^{64}`. Where n values are left, of
which c are the one to be coded and b lesser ones, the interval becomes the part that belongs to it,

.. math::
    l \leftarrow l + b \lfloor s/n \rfloor, \qquad s \leftarrow c \lfloor s/n \rfloor,

and whenever s falls below :math:`2^{56}`, the top byte of l is written and both are multiplied by
256. A code ends with the shortest number in the last interval; the zeros behind it are left out.

The numbers b and c come from a binary tree whose nodes hold how many values are left below them, so
the time is of the order d log d for d values. `compiled_coding` has the same loops
compiled.

References:
    Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979.
"""

from collections.abc import Sequence

import numpy as np

from laperm_lib.errors import WeightFileError

WINDOW = 8
"""The bytes of the interval's bounds, by which a decoder is ahead."""

MASK = 2 ** (8 * WINDOW) - 1
"""The largest number of so many bytes, and the size of the interval at the start."""

LEAST_SPAN = 2 ** (8 * WINDOW - 8)
"""The smallest size of the interval."""


def encode(kinds: Sequence[np.ndarray]) -> bytes:
    r"""Code rows of numbers for those who know how often each occurs in its row.

    Args:
        kinds: integer matrices (neurons, d); in a row each number from 0 to its largest occurs.

    Returns:
        The code of all of them.

    Examples:
        >>> encode([np.array([[0, 0, 0]])]), encode([np.array([[1, 0, 0]])])
        (b'', b'\xab')
    """
    low, span, code = 0, MASK, bytearray()
    for row in (row.tolist() for matrix in kinds for row in matrix):
        left = _Left(row)
        for kind in row:
            if left.is_settled():
                break
            lesser, count, total = left.take(kind)
            low += span // total * lesser
            span = span // total * count
            if low > MASK:
                _carry(code)
                low &= MASK
            while span < LEAST_SPAN:
                code.append(low >> (8 * WINDOW - 8))
                low = (low << 8) & MASK
                span <<= 8
    return finish(code, low, span)


def decode(code: bytes, sorted_kinds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Undo `encode`.

    Args:
        code: what it gave.
        sorted_kinds: the same matrices with sorted rows.

    Returns:
        The matrices, int32.

    Raises:
        WeightFileError: if no arrangement has this code.

    Examples:
        >>> decode(bytes([0xAB]), [np.array([[0, 0, 1]])])[0].tolist()
        [[1, 0, 0]]
    """
    offset, span, position = window(code, WINDOW), MASK, WINDOW
    decoded = []
    for matrix in sorted_kinds:
        kinds = []
        for row in matrix.tolist():
            left = _Left(row)
            for _ in row:
                if left.is_settled():
                    kinds.append(left.find(0))
                    left.take(kinds[-1])
                    continue
                step = span // left.total
                if offset // step >= left.total:
                    raise damaged()
                kinds.append(left.find(offset // step))
                lesser, count, _ = left.take(kinds[-1])
                offset -= step * lesser
                span = step * count
                while span < LEAST_SPAN:
                    offset = offset << 8 | (code[position] if position < len(code) else 0)
                    position += 1
                    span <<= 8
        decoded.append(np.array(kinds, np.int32).reshape(matrix.shape))
    check_end(code, offset, span, position)
    return decoded


class _Left:
    """The values of a vector that are still to be given out, counted by kind.

    `tree[1]` is the root, `tree[2 i]` and `tree[2 i + 1]` are below `tree[i]`, the leaves are the
    kinds.
    """

    def __init__(self, row: Sequence[int]) -> None:
        self._distinct = max(row, default=0) + 1
        self._leaves = 1 << (self._distinct - 1).bit_length()
        self._tree = [0] * (2 * self._leaves)
        for kind in row:
            self._tree[self._leaves + kind] += 1
        for node in range(self._leaves - 1, 0, -1):
            self._tree[node] = self._tree[2 * node] + self._tree[2 * node + 1]

    @property
    def total(self) -> int:
        return self._tree[1]

    def is_settled(self) -> bool:
        """Whether all that are left are equal, so that nothing is to be told."""
        return self._distinct == 1

    def find(self, target: int) -> int:
        """The kind of the value number `target` of those left, in ascending order."""
        node = 1
        while node < self._leaves:
            node *= 2
            if target >= self._tree[node]:
                target -= self._tree[node]
                node += 1
        return node - self._leaves

    def take(self, kind: int) -> tuple[int, int, int]:
        """Take one away: how many there were of lesser kinds, of this kind, and of all."""
        node, lesser = self._leaves + kind, 0
        count, total = self._tree[node], self.total
        self._distinct -= count == 1
        self._tree[node] -= 1
        while node > 1:
            if node % 2:
                lesser += self._tree[node - 1]
            node //= 2
            self._tree[node] -= 1
        return lesser, count, total


def finish(code: bytearray, low: int, span: int) -> bytes:
    """Add the shortest end to a code: a decoder sees zeros behind it.

    Args:
        code: the bytes that are written.
        low: the interval behind the last value.
        span: its size.
    """
    end = _end(low, span)
    if end > MASK:
        _carry(code)
    code += (end & MASK).to_bytes(WINDOW)
    return bytes(code.rstrip(b"\0"))


def _end(low: int, span: int) -> int:
    """The number in [low, low + span) that ends in most zero bytes; the least of such."""
    # Rounded up to multiples of 2^zeros.
    ends = (-(-low >> zeros) << zeros for zeros in range(8 * WINDOW, -1, -8))
    return next(end for end in ends if end < low + span)


def _carry(code: bytearray) -> None:
    """Add one to the number that the bytes are."""
    place = len(code) - 1
    while code[place] == 255:
        code[place] = 0
        place -= 1
    code[place] += 1


def window(code: bytes, position: int) -> int:
    """The last 64 bits that a decoder has read, as a number.

    Args:
        code: the whole code.
        position: how many bytes are read; behind the end they are zeros.
    """
    return int.from_bytes(code[position - WINDOW : position].ljust(WINDOW, b"\0"))


def check_end(code: bytes, offset: int, span: int, position: int) -> None:
    """Compare the end of a code with that which the encoder writes.

    Args:
        code: the whole code.
        offset: of what was read behind the start of the interval.
        span: the size of the interval.
        position: how many bytes are read.

    Raises:
        WeightFileError: if they differ.
    """
    seen = window(code, position)
    low = (seen - offset) & MASK
    if len(code) > position or code.endswith(b"\0") or _end(low, span) & MASK != seen:
        raise damaged()


def damaged() -> WeightFileError:
    """The error for a code that no arrangement has."""
    return WeightFileError("The code is damaged: it is not one of these initial values.")
