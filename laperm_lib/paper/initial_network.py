"""How a network starts: everything that decides its initial weights, to the bit.

A network trained by permuting is its start and an arrangement. The start is a few numbers.
"""

import numbers
from dataclasses import dataclass
from typing import Any

import keras

from laperm_lib import sparsity
from laperm_lib._arguments import check_number
from laperm_lib._random import check_seed
from laperm_lib.paper import networks as models


def checked_pruning(
    pruned: float, shared_value: float | None, keep: tuple[float, ...], constant_fan_in: bool
) -> dict[str, Any]:
    """Give what decides which weights are zero back in Python's own numbers, by name.

    Args:
        pruned: as for `InitialNetwork`.
        shared_value: as for `InitialNetwork`.
        keep: as for `InitialNetwork`.
        constant_fan_in: as for `InitialNetwork`.

    Raises:
        ValueError: if one is impossible, or they exclude each other.
    """
    if isinstance(keep, numbers.Real):
        raise ValueError(f"keep has a number for each kernel, as in ({keep!r},).")
    keep = tuple(keep)
    if (shared_value is None) != (not keep):
        raise ValueError("shared_value and keep are given together or not at all.")
    if shared_value is not None and pruned:
        raise ValueError("With a shared value, keep says what is pruned; pruned is 0.")
    if constant_fan_in and shared_value is None:
        raise ValueError("constant_fan_in is for networks with a shared value.")
    return {
        "pruned": check_number("pruned", pruned, at_least=0, at_most=1),
        "shared_value": None
        if shared_value is None
        else check_number("shared_value", shared_value),
        "keep": tuple(check_number("keep", part, at_least=0, at_most=1) for part in keep),
        "constant_fan_in": bool(constant_fan_in),
    }


@dataclass(frozen=True, kw_only=True)
class InitialNetwork:
    """A network of the paper before its first training step.

    Args:
        model: a name for `laperm_lib.paper.networks.build`.
        seed: an integer of at least 0, for the initial weights and the masks.
        initializer: the distribution of the initial weights.
            Default "he_uniform".
        pruned: the fraction of kernel weights that `laperm_lib.sparsity.random_prune` sets to zero.
            Default 0.
        shared_value: the value that every kept kernel weight has, where there is only one; then
            `keep` says which, and nothing else is pruned. Default: there is none.
        keep: with a shared value, the probability that a weight is kept, for each kernel.
        constant_fan_in: with a shared value, whether every neuron of a layer keeps equally many
            weights, as `laperm_lib.sparsity.agnosticize` says. Default False.
        precision: the dtype policy, as for `laperm_lib.paper.networks.build`. Default "float32".

    Raises:
        ValueError: for a seed that is not an integer of at least 0, or for fractions, values and
            probabilities that are none or exclude each other.

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
    constant_fan_in: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        # Python's own numbers, which a file can hold, whatever kind they were given as.
        object.__setattr__(self, "seed", check_seed(self.seed))
        pruning = checked_pruning(self.pruned, self.shared_value, self.keep, self.constant_fan_in)
        for name, value in pruning.items():
            object.__setattr__(self, name, value)

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
            report = sparsity.agnosticize(
                model,
                self.shared_value,
                self.keep,
                seed=self.seed,
                constant_fan_in=self.constant_fan_in,
            )
        else:
            report = sparsity.random_prune(model, self.pruned, seed=self.seed)
        return model, report
