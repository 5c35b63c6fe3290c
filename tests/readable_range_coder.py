"""The range coder of `laperm_lib.coding` in plain Python, written for reading.

Its bounds are integers of any size, so nothing is ever carried, and a code is damaged if its
arrangement has another one.
"""

import numpy as np

from laperm_lib.errors import WeightFileError

BITS = 64  # of the interval's size, which is at least a byte less


def encode(kinds):
    """Code integer matrices (neurons, d); in a row each number from 0 to its largest occurs."""
    low, span, written = 0, 2**BITS - 1, 0
    for row in (row.tolist() for matrix in kinds for row in matrix):
        left = sorted(row)
        for kind in row:
            if left[0] == left[-1]:
                break
            step = span // len(left)
            low += step * left.index(kind)  # those that are less
            span = step * left.count(kind)
            left.remove(kind)
            while span < 2 ** (BITS - 8):
                low, span, written = low << 8, span << 8, written + 1
    for zeros in range(BITS, -1, -8):  # the shortest number in [low, low + span)
        end = -(-low >> zeros) << zeros
        if end < low + span:
            return end.to_bytes(written + BITS // 8).rstrip(b"\0")


def decode(code, sorted_kinds):
    """Undo `encode`, of the same matrices with sorted rows."""
    unread = iter(code)
    offset, span = 0, 2**BITS - 1
    for _ in range(BITS // 8):
        offset = offset << 8 | next(unread, 0)
    decoded = []
    for matrix in sorted_kinds:
        kinds = []
        for row in matrix.tolist():
            left = list(row)
            while left[:1] != left[-1:]:
                step = span // len(left)
                if offset // step >= len(left):
                    raise WeightFileError("No arrangement has this code.")
                kinds.append(left[offset // step])
                offset -= step * left.index(kinds[-1])
                span = step * left.count(kinds[-1])
                left.remove(kinds[-1])
                while span < 2 ** (BITS - 8):
                    offset, span = offset << 8 | next(unread, 0), span << 8
            kinds += left
        decoded.append(np.array(kinds, np.int32).reshape(matrix.shape))
    if encode(decoded) != code:
        raise WeightFileError("The code of this arrangement is another one.")
    return decoded
