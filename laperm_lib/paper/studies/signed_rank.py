"""Whether runs that are paired by their seed differ: the Wilcoxon signed-rank test.

References:
    Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """Differences between two kinds of runs, one for each seed, and what the test says of them.

    Args:
        mean: of the differences.
        positive: how many are above zero.
        seeds: how many there are.
        p_value: of the two-sided Wilcoxon signed-rank test: the probability of ranks so uneven, or
            more, if differences of either sign were equally likely. With n seeds it is at least
            :math:`2^{1 - n}`, so five cannot go below 0.05.
    """

    mean: float
    positive: int
    seeds: int
    p_value: float


def wilcoxon(differences: Iterable[float]) -> Comparison:
    """Test whether paired runs differ, by SciPy's Wilcoxon signed-rank test.

    Args:
        differences: one for each seed; those that are zero are left out of the test.

    Raises:
        ValueError: if there are none.

    Examples:
        >>> wilcoxon([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
        Comparison(mean=1.75, positive=6, seeds=6, p_value=0.03125)
    """
    values = np.array(list(differences), dtype=float)
    if not values.size:
        raise ValueError("There are no differences to test.")
    p_value = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    return Comparison(float(values.mean()), int((values > 0).sum()), values.size, p_value)
