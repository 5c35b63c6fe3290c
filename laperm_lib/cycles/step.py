"""SGPerm's hyperparameters, and what a step of it does to the arrays of one variable.

Between the mathematics of one weight vector (`cycles`) and the optimizer
(`laperm_lib.SGPerm`): how aggressiveness and partition ratio follow the step, and where the random
parts come from. All on NumPy arrays, knowing nothing of Keras.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from laperm_lib._arguments import check_integer, check_number
from laperm_lib._random import check_seed, raw_bits
from laperm_lib.cycles import compiled as compiled_cycles
from laperm_lib.cycles import reference as cycles
from laperm_lib.cycles import shuffling as compiled_shuffling
from laperm_lib.permutation import from_matrix, to_matrix


@dataclass(frozen=True, kw_only=True)
class Rearrangement:
    """How weights are rearranged, step after step.

    Args:
        alpha0: as for `laperm_lib.SGPerm`, like all that follow.
        alpha_min: the least aggressiveness.
        beta1: factor on the aggressiveness after each step.
        lambda0: partition ratio in the first step.
        lambda_max: the largest partition ratio.
        beta2: factor on the partition ratio after each step.
        momentum: of the recommendation.
        partition_size_min: the least size of a part.
        seed: for the random parts.

    Raises:
        ValueError: for a value outside of its range.

    Examples:
        >>> how = Rearrangement(
        ...     alpha0=0.5, alpha_min=0.1, beta1=0.5, lambda0=0.2, lambda_max=1, beta2=2,
        ...     momentum=0.9, partition_size_min=10, seed=0,
        ... )
        >>> [how.aggressiveness(step) for step in range(4)]
        [0.5, 0.25, 0.125, 0.1]
        >>> [how.partition_ratio(step) for step in range(4)]
        [0.2, 0.4, 0.8, 1.0]
    """

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
        check_number("alpha_min", self.alpha_min, at_least=0)
        check_number("alpha0", self.alpha0, at_least=self.alpha_min)
        check_number("beta1", self.beta1, above=0, at_most=1)
        check_number("lambda_max", self.lambda_max, above=0, at_most=1)
        check_number("lambda0", self.lambda0, above=0, at_most=self.lambda_max)
        check_number("beta2", self.beta2, at_least=1)
        check_number("momentum", self.momentum, at_least=0, below=1)
        check_integer("partition_size_min", self.partition_size_min, at_least=2)
        check_seed(self.seed)

    def to_json(self) -> dict[str, Any]:
        """The arguments as numbers that JSON can hold."""
        integers = ("partition_size_min", "seed")
        return {k: int(v) if k in integers else float(v) for k, v in asdict(self).items()}

    def aggressiveness(self, step: int) -> float:
        """The aggressiveness alpha of a step, counted from 0."""
        return float(max(self.alpha0 * self.beta1**step, self.alpha_min))

    def partition_ratio(self, step: int) -> float:
        """The partition ratio lambda of a step, counted from 0."""
        with np.errstate(over="ignore"):  # to infinity, after many steps
            growth = float(np.float64(self.beta2) ** step)
        return float(min(self.lambda0 * growth, self.lambda_max))

    def recommend(self, previous: np.ndarray, gradient: np.ndarray, rate: float) -> np.ndarray:
        """What each place of a variable wants, as `cycles.recommend` says."""
        return cycles.recommend(previous, gradient, learning_rate=rate, momentum=self.momentum)

    def rearrange(
        self,
        weights: np.ndarray,
        recommendation: np.ndarray,
        spread: np.ndarray,
        *,
        neuron_axes: tuple[int, ...],
        number: int,
        step: int,
    ) -> np.ndarray:
        """Rearrange each weight vector of a variable.

        The random parts depend on the seed, `number` and `step` alone.

        Args:
            weights: the present values, finite floats of any shape.
            recommendation: what each place wants, finite floats of the same shape.
            spread: the range of each initial weight vector, shape (neurons,).
            neuron_axes: the axes that run over neurons.
            number: of the variable among those that are rearranged.
            step: counted from 0.

        Returns:
            The new values, contiguous, of the shape and dtype of `weights`.

        Examples:
            >>> how = Rearrangement(
            ...     alpha0=1, alpha_min=1, beta1=1, lambda0=1, lambda_max=1, beta2=1,
            ...     momentum=0.9, partition_size_min=10, seed=0,
            ... )
            >>> kernel = np.array([[1.0, 8.0], [2.0, 9.0]], "float32")  # (in, out)
            >>> wishes = np.array([[-1.0, -1.0], [1.0, -1.0]], "float32")
            >>> spread = np.array([1.0, 1.0], "float32")
            >>> how.rearrange(kernel, wishes, spread, neuron_axes=(-1,), number=0, step=0).tolist()
            [[2.0, 8.0], [1.0, 9.0]]
        """
        matrix, wishes = (to_matrix(array, neuron_axes) for array in (weights, recommendation))
        words = raw_bits(self.seed, f"sgperm/{number}/{step}").random_raw(matrix.size)
        new = compiled_cycles.rearrange(
            matrix,
            wishes,
            compiled_shuffling.shuffle(words.reshape(matrix.shape)),
            size=cycles.part_size(
                matrix.shape[1], self.partition_ratio(step), self.partition_size_min
            ),
            alpha=self.aggressiveness(step),
            spread=spread,
        )
        # `np.ascontiguousarray` would make shape (1,) of ().
        return np.asarray(from_matrix(new, weights.shape, neuron_axes), order="C")
