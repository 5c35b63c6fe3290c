r"""A step of SGPerm for all variables of a network, and the hyperparameters of its search.

With step t counted from 0, the search for cycles takes the aggressiveness and the partition ratio

.. math::

    \alpha_t = \max(\beta_1^t \alpha_0, \alpha_{\min}), \qquad
    \lambda_t = \min(\beta_2^t \lambda_0, \lambda_{\max}).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib._arguments import check_integer, check_number
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.cycles.reference import part_size, recommend
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import from_matrix, to_matrix


@dataclass(frozen=True, kw_only=True)
class CycleSearch:
    """The hyperparameters of SGPerm's search for cycles, as `laperm_lib.SGPerm` explains them."""

    alpha0: float
    alpha_min: float
    beta1: float
    lambda0: float
    lambda_max: float
    beta2: float
    momentum: float
    partition_size_min: int
    seed: int

    def __post_init__(self) -> None:
        minimum = check_integer("partition_size_min", self.partition_size_min, at_least=2)
        object.__setattr__(self, "partition_size_min", minimum)
        object.__setattr__(self, "seed", check_seed(self.seed))
        self._check("alpha_min", at_least=0)
        self._check("alpha0", at_least=self.alpha_min)
        self._check("beta1", above=0, at_most=1)
        self._check("lambda_max", above=0, at_most=1)
        self._check("lambda0", above=0, at_most=self.lambda_max)
        self._check("beta2", at_least=1)
        self._check("momentum", at_least=0, below=1)

    def _check(self, name: str, **limits: float) -> None:
        object.__setattr__(self, name, check_number(name, getattr(self, name), **limits))

    def aggressiveness(self, step: int) -> float:
        """The aggressiveness alpha of a step, counted from 0."""
        return float(max(self.alpha0 * self.beta1**step, self.alpha_min))

    def partition_ratio(self, step: int) -> float:
        """The partition ratio lambda of a step, counted from 0."""
        with np.errstate(over="ignore"):  # to infinity, after many steps
            growth = float(np.float64(self.beta2) ** step)
        return float(min(self.lambda0 * growth, self.lambda_max))

    def permute(
        self,
        weights: np.ndarray,
        recommendation: np.ndarray,
        spread: np.ndarray,
        *,
        neuron_axes: tuple[int, ...],
        number: int,
        step: int,
    ) -> np.ndarray:
        """The weights of a variable after a step; its parts depend on seed, number and step."""
        from laperm_lib.cycles import compiled

        matrix, wishes = (to_matrix(array, neuron_axes) for array in (weights, recommendation))
        words = raw_bits(self.seed, f"sgperm/{number}/{step}").random_raw(matrix.size)
        new = compiled.permute_vectors(
            matrix,
            wishes,
            compiled.shuffle(words.reshape(matrix.shape)),
            size=part_size(matrix.shape[1], self.partition_ratio(step), self.partition_size_min),
            alpha=self.aggressiveness(step),
            spread=spread,
        )
        # `np.ascontiguousarray` would make shape (1,) of ().
        return np.asarray(from_matrix(new, weights.shape, neuron_axes), order="C")


@dataclass(frozen=True, eq=False)
class PermutedVariable:
    """A variable that is permuted along cycles, and what SGPerm keeps for it.

    Its number gives it random parts of its own; `spread`, shape (neurons,), is that of `reach`.
    """

    number: int
    variable: Any
    recommendation: Any
    spread: Any
    neuron_axes: tuple[int, ...]


def take_step(
    entries: Sequence[PermutedVariable],
    gradients: Sequence[Any],
    search: CycleSearch,
    *,
    step: Any,
    rate: Any,
) -> None:
    """Update the recommendations of the variables, and permute their weights.

    Where a recommendation is not finite no weight moves; JAX, which raises nothing, needs
    `check_finite` after `fit`.
    """
    if not entries:
        return
    count = len(entries)
    variables = [entry.variable for entry in entries]
    recommendations = [entry.recommendation for entry in entries]
    tensors = [*variables, *recommendations, *(entry.spread for entry in entries), *gradients]
    arrays = [step, rate, *map(ops.convert_to_tensor, tensors)]

    def new_values(step: Any, rate: Any, *arrays: np.ndarray) -> Sequence[np.ndarray]:
        weights, previous, spreads, grads = (
            arrays[first : first + count] for first in range(0, len(arrays), count)
        )
        wishes = [
            recommend(before, grad, learning_rate=float(rate), momentum=search.momentum)
            for before, grad in zip(previous, grads, strict=True)
        ]
        if not all(np.isfinite(wish).all() for wish in wishes):
            if backend.host_callbacks_can_raise():
                check_finite(entries, wishes)
            return [*weights, *wishes]
        new = [
            search.permute(
                *arrays, neuron_axes=entry.neuron_axes, number=entry.number, step=int(step)
            )
            for entry, *arrays in zip(entries, weights, wishes, spreads, strict=True)
        ]
        return new + wishes

    assigned = [*variables, *recommendations]
    results = backend.host_callback(new_values, arrays, like=arrays[2 : 2 + 2 * count])
    for variable, value in zip(assigned, results, strict=True):
        variable.assign(value)


def check_finite(entries: Sequence[PermutedVariable], wishes: Sequence[np.ndarray]) -> None:
    """Refuse recommendations that hold a NaN or an infinity; no step makes them finite again."""
    for entry, wish in zip(entries, wishes, strict=True):
        if not np.isfinite(wish).all():
            raise NonFiniteWeightError(
                f"The gradient of '{entry.variable.path}' holds a NaN or an infinity; no weight "
                "was moved."
            )
