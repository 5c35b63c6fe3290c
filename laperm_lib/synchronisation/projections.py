r"""The sets that weight vectors are projected onto: what may become of their initial values.

A synchronisation takes the element of the set :math:`S(w_0)` that is nearest to the trained vector,

.. math:: w \leftarrow \arg\min_{s \in S(w_0)} \|w - s\|_2.

For the permutations of :math:`w_0` that is its rank order, by the rearrangement inequality, and
with free signs the rank order of magnitudes; for signs and for masks each weight has the nearer one
of two values. An element is stored as its place in the set, in :math:`\log_2 |S(w_0)|` bits.

References:
    Hardy, Littlewood and Polya, "Inequalities", 1934, theorem 368 (rearrangement).
    Qiu and Suda, NeurIPS 2020, algorithm 1 (permutations).
    Ivan and Florian, "Training highly effective connectivities within neural networks with randomly
    initialized, fixed weights", arXiv 2006.16627 (signs, and masks).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from laperm_lib import permutation
from laperm_lib.errors import WeightFileError
from laperm_lib.synchronisation.in_graph import reconnect, sorted_rows


class Projection:
    """The base of all sets: what is kept of initial values, and how vectors are projected.

    Matrices are of weight vectors, shape (neurons, d). What is done on the host and what is done in
    a graph give the same bits.
    """

    name: str  # of an element, in messages and files
    variable_name: str  # of what is kept
    in_words: str  # what happens to weights
    stuck_if: str  # when a vector is alone in its set

    def keep(self, matrix: np.ndarray) -> np.ndarray:
        """What is kept of the initial values."""
        raise NotImplementedError

    def keep_in_graph(self, matrix: Any) -> Any:
        """The same of tensors."""
        raise NotImplementedError

    def nearest(self, matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The elements of the set that are nearest."""
        raise NotImplementedError

    def nearest_in_graph(self, matrix: Any, kept: Any) -> Any:
        """The same of tensors."""
        raise NotImplementedError

    def contains(self, matrix: np.ndarray, kept: np.ndarray) -> bool:
        """Whether all vectors are in the set, bit for bit."""
        return bool((self.nearest(matrix, kept) == matrix).all())

    def allows(self, matrix: np.ndarray, initial: np.ndarray) -> bool:
        """Whether initial vectors may become these, bit for bit."""
        return self.contains(matrix, self.keep(initial))

    def are_stuck(self, matrix: np.ndarray) -> np.ndarray:
        """Which initial vectors are alone in their set, shape (neurons,)."""
        return (matrix == 0).all(axis=1)

    def encode(self, matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
        """Code which elements vectors are, given their initial values, as `coding.encode`.

        Raises:
            ValueError: if a vector is no element of its set.
        """
        for number, (matrix, first) in enumerate(zip(matrices, initial, strict=True)):
            if not self.allows(matrix, first):
                raise ValueError(f"Matrix {number} is not a {self.name} of its initial values.")
        return self._encode(matrices, initial)

    def decode(self, code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Undo `encode`; a WeightFileError if no elements have this code."""
        raise NotImplementedError

    def bound_bits(self, initial: Sequence[np.ndarray]) -> float:
        """log2 of the number of elements, in bits."""
        raise NotImplementedError

    def _encode(self, matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
        raise NotImplementedError


class Permutations(Projection):
    """All permutations of a vector's initial values, which are kept sorted."""

    name = "permutation"
    variable_name = "sorted_initial"
    in_words = "permuted"
    stuck_if = "all weights of a vector are equal"

    def keep(self, matrix: np.ndarray) -> np.ndarray:
        """The values of each vector, in order."""
        return permutation.sort_values(matrix)

    def keep_in_graph(self, matrix: Any) -> Any:
        """The same of tensors."""
        return sorted_rows(matrix)

    def nearest(self, matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The initial values in the rank order of the weights."""
        return permutation.reconnect(matrix, kept)

    def nearest_in_graph(self, matrix: Any, kept: Any) -> Any:
        """The same of tensors."""
        return reconnect(matrix, kept)

    def contains(self, matrix: np.ndarray, kept: np.ndarray) -> bool:
        """In any order."""
        return permutation.is_permutation(kept, matrix)

    def are_stuck(self, matrix: np.ndarray) -> np.ndarray:
        """Vectors of one weight, or of equal ones."""
        return (matrix == matrix[:, :1]).all(axis=1)

    def decode(self, code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `coding.decode`."""
        return _coding().decode(code, initial)

    def bound_bits(self, initial: Sequence[np.ndarray]) -> float:
        """As `coding.bound_bits`."""
        return _coding().bound_bits(initial)

    def _encode(self, matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
        return _coding().encode(matrices, initial)


class _ByWeight(Projection):
    """Sets in which each weight has one of two values, written once for arrays and for tensors.

    A code has a bit for each weight that does not start as 0: whether it has the second value.
    """

    stuck_if = "all weights of a vector are 0"

    def keep(self, matrix: np.ndarray) -> np.ndarray:
        """A new array."""
        return np.array(self._keep(matrix, np))

    def keep_in_graph(self, matrix: Any) -> Any:
        """The same of tensors."""
        return self._keep(matrix, ops)

    def nearest(self, matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The nearer one of two values for each weight."""
        return self._nearest(matrix, kept, np)

    def nearest_in_graph(self, matrix: Any, kept: Any) -> Any:
        """The same of tensors."""
        return self._nearest(matrix, kept, ops)

    def decode(self, code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The first or the second value of each weight."""
        bits = _unpack(code, sum(map(np.count_nonzero, initial)))
        decoded = []
        for first in initial:
            kept, takes_second = self.keep(first), first != 0
            own, bits = np.split(bits, [np.count_nonzero(takes_second)])
            takes_second[takes_second] = own
            decoded.append(np.where(takes_second, self._second(kept), kept))
        return decoded

    def bound_bits(self, initial: Sequence[np.ndarray]) -> float:
        """One bit for each weight that does not start as 0."""
        return float(sum(map(np.count_nonzero, initial)))

    def _encode(self, matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
        return _pack(
            (matrix == self._second(self.keep(first)))[first != 0]
            for matrix, first in zip(matrices, initial, strict=True)
        )

    def _nearest(self, matrix: Any, kept: Any, xp: Any) -> Any:
        takes_second = xp.logical_and(self._is_second(matrix, kept, xp), kept != 0)
        return xp.where(takes_second, self._second(kept), kept)

    def _keep(self, matrix: Any, xp: Any) -> Any:
        """The first value of each weight."""
        raise NotImplementedError

    def _second(self, kept: Any) -> Any:
        """The second one."""
        raise NotImplementedError

    def _is_second(self, matrix: Any, kept: Any, xp: Any) -> Any:
        """Whether that is the nearer one."""
        raise NotImplementedError


class Signs(_ByWeight):
    """All vectors with the initial magnitudes, which are kept; signs are free.

    >>> Signs().nearest(np.array([[-0.1, 3.0]]), kept=np.array([[2.0, 1.0]]))
    array([[-2.,  1.]])
    """

    name = "sign pattern"
    variable_name = "magnitudes"
    in_words = "signs flipped"

    def _keep(self, matrix: Any, xp: Any) -> Any:
        return xp.abs(matrix)

    def _second(self, kept: Any) -> Any:
        return -kept

    def _is_second(self, matrix: Any, kept: Any, xp: Any) -> Any:
        return matrix < 0


class Masks(_ByWeight):
    """All vectors in which each weight has its initial value, which is kept, or is 0.

    >>> Masks().nearest(np.array([[0.9, 1.1, 5.0]]), kept=np.array([[2.0, 2.0, -1.0]]))
    array([[0., 2., 0.]])
    """

    name = "mask"
    variable_name = "initial"
    in_words = "switched"

    def _keep(self, matrix: Any, xp: Any) -> Any:
        return matrix

    def _second(self, kept: Any) -> Any:
        return abs(kept) * 0  # +0, for arrays and tensors

    def _is_second(self, matrix: Any, kept: Any, xp: Any) -> Any:
        # Nearer to 0 than to its initial value: below half of it. Twice the weight, not half the
        # value: backends may take the half of a tiny one for 0.
        return 2 * xp.where(kept < 0, -matrix, matrix) < xp.abs(kept)


class SignedPermutations(Projection):
    """All permutations of a vector's initial magnitudes, which are kept sorted; signs are free.

    >>> SignedPermutations().nearest(np.array([[-0.1, 3.0]]), kept=np.array([[1.0, 2.0]]))
    array([[-1.,  2.]])
    """

    name = "signed permutation"
    variable_name = "sorted_magnitudes"
    in_words = "permuted with free signs"
    stuck_if = "all weights of a vector are 0"

    def keep(self, matrix: np.ndarray) -> np.ndarray:
        """The magnitudes of each vector, in order."""
        return permutation.sort_values(np.abs(matrix))

    def keep_in_graph(self, matrix: Any) -> Any:
        """The same of tensors."""
        return sorted_rows(ops.abs(matrix))

    def nearest(self, matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The initial magnitudes in the rank order of the weights', with the weights' signs."""
        magnitudes = permutation.reconnect(np.abs(matrix), kept)
        return np.where((matrix < 0) & (magnitudes != 0), -magnitudes, magnitudes)

    def nearest_in_graph(self, matrix: Any, kept: Any) -> Any:
        """The same of tensors."""
        magnitudes = reconnect(ops.abs(matrix), kept)
        is_negative = ops.logical_and(matrix < 0, magnitudes != 0)
        return ops.where(is_negative, -magnitudes, magnitudes)

    def contains(self, matrix: np.ndarray, kept: np.ndarray) -> bool:
        """In any order, with any signs."""
        return permutation.is_permutation(kept, np.abs(matrix))

    def decode(self, code: bytes, initial: Sequence[np.ndarray]) -> list[np.ndarray]:
        """First the signs of all weights that are not 0, then the arrangement of magnitudes."""
        count = sum(map(np.count_nonzero, initial))
        signs, arrangement = np.split(np.frombuffer(code, np.uint8), [math.ceil(count / 8)])
        bits = _unpack(signs.tobytes(), count)
        decoded = _coding().decode(arrangement.tobytes(), [np.abs(first) for first in initial])
        for matrix in decoded:
            is_negative = matrix != 0
            own, bits = np.split(bits, [np.count_nonzero(is_negative)])
            is_negative[is_negative] = own
            np.negative(matrix, out=matrix, where=is_negative)
        return decoded

    def bound_bits(self, initial: Sequence[np.ndarray]) -> float:
        """Those of the arrangements of magnitudes, and a bit for each weight that is not 0."""
        magnitudes = [np.abs(first) for first in initial]
        return float(_coding().bound_bits(magnitudes) + sum(map(np.count_nonzero, initial)))

    def _encode(self, matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray]) -> bytes:
        magnitudes, before = ([np.abs(each) for each in side] for side in (matrices, initial))
        signs = _pack((matrix < 0)[matrix != 0] for matrix in matrices)
        return signs + _coding().encode(magnitudes, before)


SETS = {each.name: each for each in (Permutations(), Signs(), Masks(), SignedPermutations())}
"""By the names that files have for them."""


def _coding() -> Any:
    """`laperm_lib.coding`, which imports Numba."""
    from laperm_lib import coding

    return coding


def _pack(bits: Iterable[np.ndarray]) -> bytes:
    return np.packbits(np.concatenate([*bits, np.zeros(0, bool)])).tobytes()


def _unpack(code: bytes, count: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(code, np.uint8)).astype(bool)
    if len(code) != math.ceil(count / 8) or bits[count:].any():
        raise WeightFileError("The code is damaged: no weights with these initial values have it.")
    return bits[:count]
