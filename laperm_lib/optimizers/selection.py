"""Which variables of a model an algorithm works on; the others are left as they are."""

import logging
import re
from collections.abc import Iterable
from typing import Any

import keras

from laperm_lib import weight_vectors
from laperm_lib._arguments import check_patterns
from laperm_lib.weight_vectors import KINDS, WeightVectors

_log = logging.getLogger(__name__)


class Selection:
    """All trainable variables, but those that are skipped by kind or excluded by name.

    Args:
        skip_bias: leave biases out.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, out.
        exclude: regular expressions; a variable in whose `path`, such as "sequential/dense/kernel",
            one of them is found is left out. Its layer need not be known. One that is found in none
            is logged as a warning.

    Raises:
        ValueError: for a pattern that is no regular expression.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
        >>> selection = Selection(skip_bias=True, skip_batch_norm=True, exclude=())
        >>> [vectors.path for vectors in selection.of_model(model)]
        ['d/kernel']
    """

    def __init__(
        self, *, skip_bias: bool, skip_batch_norm: bool, exclude: str | Iterable[str]
    ) -> None:
        self.skip_bias = bool(skip_bias)
        self.skip_batch_norm = bool(skip_batch_norm)
        self.exclude = check_patterns("exclude", exclude)

    def of_model(self, model: keras.Model) -> list[WeightVectors]:
        """The weight vectors of a model's selected variables, in the order of its layers.

        Raises:
            ValueError: if the model is not built, or nothing is left.
            UnknownLayerError: if a layer's weight vectors are not known.
        """
        found = self._wanted(weight_vectors.of(model, KINDS, skip=self._is_excluded))
        self._check_exclude(model.trainable_variables)
        return found

    def of_variables(self, variables: Iterable[Any]) -> list[WeightVectors]:
        """The weight vectors of those variables that are selected, whose model is not at hand.

        Raises:
            ValueError: if nothing is left.
            UnknownLayerError: if a layer's weight vectors are not known.
        """
        variables = list(variables)
        candidates = [v for v in variables if not self._is_excluded(v)]
        found = self._wanted(weight_vectors.of_variables(candidates))
        self._check_exclude(variables)
        return found

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialisable."""
        return {
            "skip_bias": self.skip_bias,
            "skip_batch_norm": self.skip_batch_norm,
            "exclude": list(self.exclude),
        }

    def _wanted(self, known: list[WeightVectors]) -> list[WeightVectors]:
        skipped = {"bias"} if self.skip_bias else set()
        skipped |= {"normalization"} if self.skip_batch_norm else set()
        found = [vectors for vectors in known if vectors.kind not in skipped]
        if not found:
            raise ValueError("Nothing is left to work on: every variable is skipped or excluded.")
        return found

    def _check_exclude(self, variables: Iterable[Any]) -> None:
        paths = [variable.path for variable in variables]
        for pattern in self.exclude:
            if not any(re.search(pattern, path) for path in paths):
                _log.warning("exclude=%r is found in none of %s.", pattern, ", ".join(paths))

    def _is_excluded(self, variable: Any) -> bool:
        return any(re.search(pattern, variable.path) for pattern in self.exclude)
