"""What is measured of weight averages: how volatile their curves are, and in how many seeds better.

References:
    Tripathi et al., "Improving Model Training by Periodic Sampling over Weight Distributions",
    2019, arXiv:1905.05774 (the claims).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from laperm_lib.paper.studies.averaging_results import Result, name_of


def volatility(curve: Sequence[float]) -> float:
    """The standard deviation of the changes from each evaluation to the next.

    Args:
        curve: at least two accuracies.

    Examples:
        >>> volatility([0.5, 0.6, 0.7]) < 1e-12, round(volatility([0.5, 0.7, 0.5]), 3)
        (True, 0.2)
    """
    return float(np.std(np.diff(curve)))


def monotonicity(curve: Sequence[float]) -> float:
    """The share of evaluations that are not below the one before, 0 to 1.

    Args:
        curve: at least two accuracies.

    Examples:
        >>> monotonicity([0.5, 0.6, 0.6, 0.5, 0.7])
        0.75
    """
    return float(np.mean(np.diff(curve) >= 0))


@dataclass(frozen=True)
class Measures:
    """What one curve says.

    Args:
        test: accuracy on the test images at the end, 0 to 1.
        mean: the mean of all evaluations, 0 to 1: higher if it rises faster.
        volatility: `volatility` of the whole curve. The rise at the beginning has a part in it.
        late_volatility: that of its second half.
        monotonicity: `monotonicity` of the whole curve.
    """

    test: float
    mean: float
    volatility: float
    late_volatility: float
    monotonicity: float


def measures(results: Iterable[Result]) -> dict[str, dict[int, Measures]]:
    """The measures of all networks of a study.

    Args:
        results: of one study.

    Returns:
        For each network, by its `name_of`, the measures by seed. SWA, which begins in the middle,
        has those of its half alone, the second one.
    """
    found: dict[str, dict[int, Measures]] = {}
    for result in results:
        for network, curve in result.curves.items():
            values = [value for value in curve if value is not None]
            late = values[-(len(curve) // 2) :]
            found.setdefault(name_of(result, network), {})[result.seed] = Measures(
                test=result.test[network],
                mean=float(np.mean(values)),
                volatility=volatility(values),
                late_volatility=volatility(late),
                monotonicity=monotonicity(values),
            )
    return found


BETTER: dict[str, Callable[[Measures, Measures], bool]] = {
    "less volatile": lambda one, other: one.volatility < other.volatility,
    "less volatile late": lambda one, other: one.late_volatility < other.late_volatility,
    "as monotonic": lambda one, other: one.monotonicity >= other.monotonicity,
    "faster": lambda one, other: one.mean > other.mean,
    "better in the end": lambda one, other: one.test > other.test,
}
"""What one network can be in comparison to another with the same seed."""


def compare(results: Iterable[Result], network: str) -> dict[str, tuple[int, int]]:
    """In how many seeds a network is better than the one trained alone.

    Args:
        results: of one study.
        network: its `name_of`.

    Returns:
        For each word of `BETTER`, the number of such seeds, and that of all that both have.
    """
    found = measures(results)
    one, alone = found[network], found["alone"]
    pairs = [(one[seed], alone[seed]) for seed in one.keys() & alone.keys()]
    return {
        word: (sum(is_better(*pair) for pair in pairs), len(pairs))
        for word, is_better in BETTER.items()
    }


def compare_all(studies: Iterable[Sequence[Result]], network: str) -> dict[str, tuple[int, int]]:
    """`compare` over several studies together.

    Args:
        studies: the results of each.
        network: its `name_of`.
    """
    totals = dict.fromkeys(BETTER, (0, 0))
    for results in studies:
        for word, (better, pairs) in compare(results, network).items():
            totals[word] = (totals[word][0] + better, totals[word][1] + pairs)
    return totals


def verdict(better: int, pairs: int) -> str:
    """What the count of `compare` says of a claim, over at least one pair of trainings.

    Returns:
        "[Re]" if it holds in at least three of four, "[¬Re]" if in at most half, else "mixed".

    Examples:
        >>> verdict(3, 4), verdict(2, 4), verdict(5, 8)
        ('[Re]', '[¬Re]', 'mixed')
    """
    if not pairs:
        raise ValueError("There is no pair of trainings to judge by.")
    share = better / pairs
    return "[Re]" if share >= 0.75 else "[¬Re]" if share <= 0.5 else "mixed"
