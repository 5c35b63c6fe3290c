"""Which variables of a model an algorithm works on; the others are left as they are."""

import logging
import re
from collections.abc import Iterable
from typing import Any

import keras

from laperm_lib import weight_vectors
from laperm_lib._arguments import check_bool, check_patterns
from laperm_lib.weight_vectors import KINDS, WeightVectors

_log = logging.getLogger(__name__)


class Selection:
    """All trainable variables, but those that are skipped by kind or excluded by name.

    The layer of an excluded variable need not be known. A pattern found in no path is logged.
    """

    def __init__(
        self, *, skip_bias: bool, skip_batch_norm: bool, exclude: str | Iterable[str]
    ) -> None:
        self.skip_bias = check_bool("skip_bias", skip_bias)
        self.skip_batch_norm = check_bool("skip_batch_norm", skip_batch_norm)
        self.exclude = check_patterns("exclude", exclude)

    def of_model(self, model: keras.Model) -> list[WeightVectors]:
        """The weight vectors of a model's selected variables, in the order of its layers."""
        known = weight_vectors.of(model, KINDS, skip=self.excludes)
        return self._selected(known, model.trainable_variables)

    def of_variables(
        self, variables: Iterable[Any], layers: Iterable[keras.Layer]
    ) -> list[WeightVectors]:
        """The weight vectors of those variables, of any of the layers, that are selected."""
        variables = list(variables)
        candidates = [v for v in variables if not self.excludes(v)]
        return self._selected(weight_vectors.of_variables(candidates, layers), variables)

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialisable."""
        return {
            "skip_bias": self.skip_bias,
            "skip_batch_norm": self.skip_batch_norm,
            "exclude": list(self.exclude),
        }

    def _selected(
        self, known: list[WeightVectors], variables: Iterable[Any]
    ) -> list[WeightVectors]:
        skipped = {"bias"} if self.skip_bias else set()
        skipped |= {"normalization"} if self.skip_batch_norm else set()
        found = [vectors for vectors in known if vectors.kind not in skipped]
        if not found:
            raise ValueError("Nothing is left to work on: every variable is skipped or excluded.")
        paths = [variable.path for variable in variables]
        for pattern in self.exclude:
            if not any(re.search(pattern, path) for path in paths):
                some = ", ".join(paths[:5]) + (", ..." if len(paths) > 5 else "")
                _log.warning(
                    "exclude=%r is found in none of the %d paths: %s.", pattern, len(paths), some
                )
        return found

    def excludes(self, variable: Any) -> bool:
        """Whether a pattern is found in the variable's path."""
        return any(re.search(pattern, variable.path) for pattern in self.exclude)
