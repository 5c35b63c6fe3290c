r"""The sets that weight vectors are projected onto: what may become of their initial values.

A synchronisation takes the element of the set :math:`S(w_0)` that is nearest to the trained vector,

.. math:: w \leftarrow \arg\min_{s \in S(w_0)} \|w - s\|_2.

For the permutations of :math:`w_0` that is its rank order, by the rearrangement inequality; for
signs and for masks each weight has the nearer one of two values.

References:
    Hardy, Littlewood and Polya, "Inequalities", 1934, theorem 368 (rearrangement).
    Qiu and Suda, NeurIPS 2020, algorithm 1 (permutations).
    Ivan and Florian, "Training highly effective connectivities within neural networks with randomly
    initialized, fixed weights", arXiv 2006.16627 (signs, and masks).
"""

from typing import Any

import numpy as np
from keras import ops

from laperm_lib import permutation
from laperm_lib.synchronisation.in_graph import reconnect, sorted_rows


class Projection:
    """The base of all sets: what is kept of initial values, and how vectors are projected.

    Matrices are of weight vectors, shape (neurons, d). What is done on the host and what is done in
    a graph give the same bits.
    """

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

    def are_stuck(self, matrix: np.ndarray) -> np.ndarray:
        """Which initial vectors are alone in their set, shape (neurons,)."""
        return (matrix == 0).all(axis=1)


class Permutations(Projection):
    """All permutations of a vector's initial values, which are kept sorted."""

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


class _ByWeight(Projection):
    """Sets in which each weight has one of two values, written once for arrays and for tensors."""

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

    def _keep(self, matrix: Any, xp: Any) -> Any:
        raise NotImplementedError

    def _nearest(self, matrix: Any, kept: Any, xp: Any) -> Any:
        raise NotImplementedError


class Signs(_ByWeight):
    """All vectors with the initial magnitudes, which are kept; signs are free.

    >>> Signs().nearest(np.array([[-0.1, 3.0]]), kept=np.array([[2.0, 1.0]]))
    array([[-2.,  1.]])
    """

    variable_name = "magnitudes"
    in_words = "signs flipped"

    def _keep(self, matrix: Any, xp: Any) -> Any:
        return xp.abs(matrix)

    def _nearest(self, matrix: Any, kept: Any, xp: Any) -> Any:
        return xp.where(matrix < 0, -kept, kept)


class Masks(_ByWeight):
    """All vectors in which each weight has its initial value, which is kept, or is 0.

    >>> Masks().nearest(np.array([[0.9, 1.1, 5.0]]), kept=np.array([[2.0, 2.0, -1.0]]))
    array([[0., 2., 0.]])
    """

    variable_name = "initial"
    in_words = "switched"

    def _keep(self, matrix: Any, xp: Any) -> Any:
        return matrix

    def _nearest(self, matrix: Any, kept: Any, xp: Any) -> Any:
        # Nearer to its initial value than to 0: from half of it on, whatever its sign. Twice the
        # weight, not half the value: backends may take the half of a tiny one for 0.
        is_on = 2 * xp.where(kept < 0, -matrix, matrix) >= xp.abs(kept)
        return xp.where(is_on, kept, xp.zeros_like(kept))
