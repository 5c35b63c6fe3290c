r"""Networks whose weights share one value: how much chance decides when it draws the mask.

Permuting conserves the number of connections of each neuron, so what the mask gives a neuron at the
start it has for good. The records in the folder `pretrained/masks` are made by::

    python -m laperm_lib run f2 --seeds 100 --profile paper --output pretrained/masks/f2.json

and, with `--set constant_fan_in=yes`, for masks that give all neurons of a layer equally many.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5.
    Dodge et al., "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019 (the
    expected best of several trials).
"""

import math
from collections.abc import Iterable

import numpy as np

from laperm_lib import weight_vectors
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.training import initial_network


def expected_best(accuracies: Iterable[float], count: int) -> float:
    r"""The mean of the best of several trials, over all choices of so many of those that were made.

    Of N accuracies in ascending order, :math:`x_{(i)}` is the best of a choice of n if the others
    are below it:

    .. math:: E_n = \sum_{i=n}^{N} x_{(i)} \binom{i-1}{n-1} \Big/ \binom{N}{n}

    This has no bias, unlike the plug-in estimate of Dodge et al., which draws with replacement.

    Args:
        accuracies: of N trials.
        count: how many are chosen, n, from 1 to N.

    Raises:
        ValueError: if `count` is not an integer from 1 to N.

    Examples:
        >>> [round(expected_best([0.3, 0.1, 0.2], count), 3) for count in (1, 2, 3)]
        [0.2, 0.267, 0.3]
    """
    ascending = sorted(accuracies)
    if not isinstance(count, int) or not 1 <= count <= len(ascending):
        raise ValueError(f"Of {len(ascending)} trials 1 to that many are chosen, got {count!r}.")
    choices = math.comb(len(ascending), count)
    # Integers of Python: both binomials may have hundreds of digits.
    shares = [math.comb(below, count - 1) / choices for below in range(len(ascending))]
    return math.fsum(share * best for share, best in zip(shares, ascending, strict=True))


def fan_in(settings: Hyperparameters, seed: int) -> list[np.ndarray]:
    """How many connections each neuron of a network starts with, and keeps.

    Args:
        settings: of an experiment.
        seed: of its mask.

    Returns:
        For each kernel the numbers of weights that are not zero, one for each neuron.

    Examples:
        >>> from laperm_lib.paper.experiments.profiles import PUBLISHED
        >>> [layer.shape for layer in fan_in(PUBLISHED["f2"], seed=0)]
        [(128,), (64,), (10,)]
    """
    model, _ = initial_network(settings, seed).build()
    vectors = weight_vectors.of(model, kinds=("kernel",))
    return [np.count_nonzero(each.matrix(), axis=1) for each in vectors]
