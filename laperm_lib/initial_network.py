"""How a network starts: everything that decides its initial weights, to the bit.

A network trained by permuting is its start and an arrangement. The start is a few numbers.
"""

import numbers
from dataclasses import dataclass

import keras

from laperm_lib import models, sparsity
from laperm_lib.initializers import check_seed


@dataclass(frozen=True, kw_only=True)
class InitialNetwork:
    """A network of the paper before its first training step.

    Args:
        model: a name for `laperm_lib.models.build`.
        seed: an integer of at least 0, for the initial weights and the masks.
        initializer: the distribution of the initial weights.
        pruned: the fraction of kernel weights that `laperm_lib.sparsity.random_prune` sets to zero.
        shared_value: the value that every kept kernel weight has, where there is only one; then
            `keep` says which, and nothing else is pruned.
        keep: with a shared value, the probability that a weight is kept, for each kernel.
        precision: the dtype policy, as for `laperm_lib.models.build`.

    Raises:
        ValueError: for a seed that is not an integer of at least 0, or a `keep` that is one number.

    Examples:
        >>> model, report = InitialNetwork(model="f2", seed=0, pruned=0.5).build()
        >>> model.count_params(), round(report.fraction_pruned, 2)
        (109184, 0.23)
    """

    model: str
    seed: int
    initializer: str = "he_uniform"
    pruned: float = 0.0
    shared_value: float | None = None
    keep: tuple[float, ...] = ()
    precision: str = "float32"

    def __post_init__(self) -> None:
        # Python's own numbers, which a file can hold, whatever kind they were given as.
        object.__setattr__(self, "seed", check_seed(self.seed))
        if isinstance(self.keep, numbers.Real):
            raise ValueError(f"keep has a number for each kernel, as in ({self.keep!r},).")
        object.__setattr__(self, "keep", tuple(map(float, self.keep)))

    def build(self) -> tuple[keras.Model, sparsity.SparsityReport]:
        """Build the network.

        Returns:
            The model with its initial weights, and what was pruned of it.

        Raises:
            ValueError: if a field is not possible.
        """
        model = models.build(
            self.model, seed=self.seed, initializer=self.initializer, dtype=self.precision
        )
        if self.shared_value is not None:
            report = sparsity.agnosticize(model, self.shared_value, self.keep, seed=self.seed)
        else:
            report = sparsity.random_prune(model, self.pruned, seed=self.seed)
        return model, report
