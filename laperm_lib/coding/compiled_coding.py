"""The coder of `range_coder`, compiled by Numba: some 25 times as fast, the same bytes.

Numba is optional (`pip install "laperm-lib[fast]"`); `available` says whether it is there. Without
it `range_coder` does the coding.
"""

from collections.abc import Sequence

import numpy as np

from laperm_lib._numba import available as available
from laperm_lib._numba import compiled
from laperm_lib.coding import range_coder

# Numba turns the mixture of a signed and an unsigned integer into a float, so all of the
# arithmetic of the coder is on these.
_U64 = np.uint64
_LEAST_SPAN = _U64(range_coder.LEAST_SPAN)
_BYTE = _U64(8)
_TOP_BYTE = _U64(8 * range_coder.WINDOW - 8)


def encode(kinds: Sequence[np.ndarray]) -> bytes:
    """Code rows of numbers as `range_coder.encode` does.

    Args:
        kinds: int32 matrices (neurons, d); in a row each number from 0 to its largest occurs.

    Returns:
        The code of all of them.

    Examples:
        >>> encode([np.array([[1, 0, 0]], "int32")]).hex()
        'ab'
    """
    if not available:
        return range_coder.encode(kinds)
    # A place takes at most the logarithm of d.
    most_bits = sum(matrix.size * matrix.shape[1].bit_length() for matrix in kinds)
    code = np.empty(most_bits // 8 + range_coder.WINDOW, np.uint8)
    low, span, position = 0, range_coder.MASK, 0
    for matrix in kinds:
        # Numba gives Python's integers back, and would take them for signed ones.
        low, span, position = _encode_rows(matrix, code, _U64(low), _U64(span), position)
    return range_coder.finish(bytearray(code[:position]), int(low), int(span))


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
        >>> decode(bytes([0xAB]), [np.array([[0, 0, 1]], "int32")])[0].tolist()
        [[1, 0, 0]]
    """
    if not available:
        return range_coder.decode(code, sorted_kinds)
    source = np.frombuffer(code, np.uint8)
    position = range_coder.WINDOW
    offset, span = range_coder.window(code, position), range_coder.MASK
    decoded = []
    for matrix in sorted_kinds:
        kinds = np.empty_like(matrix)
        offset, span, position, fits = _decode_rows(
            matrix, source, _U64(offset), _U64(span), position, kinds
        )
        if not fits:
            raise range_coder.damaged()
        decoded.append(kinds)
    range_coder.check_end(code, int(offset), int(span), position)
    return decoded


@compiled(inline="always")
def _plant(tree, kinds):  # type: ignore[no-untyped-def]
    """Count the kinds of a vector into a tree; give the number of its leaves, and of the kinds."""
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
    """Take one value of a kind away; give how many there are of lesser kinds."""
    lesser = 0
    node = leaf
    tree[node] -= 1
    while node > 1:
        if node & 1:
            lesser += tree[node - 1]
        node >>= 1
        tree[node] -= 1
    return lesser


@compiled()
def _encode_rows(kinds, code, low, span, position):  # type: ignore[no-untyped-def]
    """Append the vectors of a matrix to a code.

    Args:
        kinds: for each place the number of its value among the distinct values of the vector,
            int32 (neurons, d).
        code: room for the whole code, uint8.
        low: uint64, as `span` the state of the coder.
        span: uint64.
        position: how many bytes of `code` are written.

    Returns:
        `low`, `span` and `position` behind the matrix.
    """
    neurons, d = kinds.shape
    tree = np.empty(4 * d, np.int32)
    for row in range(neurons):
        leaves, distinct = _plant(tree, kinds[row])
        for i in range(d):
            if distinct == 1:
                break
            leaf = leaves + kinds[row, i]
            count, total = tree[leaf], tree[1]
            lesser = _take(tree, leaf)
            distinct -= count == 1
            step = span // _U64(total)
            new = low + step * _U64(lesser)
            if new < low:  # the sum has left the 64 bits: carry it into the bytes that are out
                place = position - 1
                while code[place] == 255:
                    code[place] = 0
                    place -= 1
                code[place] += np.uint8(1)
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
    """Read the vectors of a matrix from a code.

    Args:
        sorted_kinds: the kinds that each vector holds, in ascending order, int32 (neurons, d).
        code: the whole code, uint8; behind its end there are zeros without end.
        offset: uint64, as `span` the state of the decoder.
        span: uint64.
        position: how many bytes of the code are read.
        kinds: where the vectors are written to, int32 (neurons, d).

    Returns:
        `offset`, `span` and `position` behind the matrix, and whether all went well; if not, no
        arrangement has this code.
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
