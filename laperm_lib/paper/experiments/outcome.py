"""What comes out of a training, and the three accuracies that are reported of it.

References:
    Qiu and Suda, NeurIPS 2020, section 5; the published code reports the best test accuracy.
"""

from dataclasses import dataclass

import keras

from laperm_lib.paper.experiments.evaluation import Evaluation
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is measured of a training.

    Three accuracies answer three questions, and have three names: `final`, `selected` and
    `published_protocol`.

    Args:
        hyperparameters: the settings.
        seed: the seed.
        fraction_pruned: the share of kernel weights that are zero at the start, 0 to 1.
        evaluations: accuracies, in the order of steps.
        final: test accuracy of the network at the end, synchronised, 0 to 1.
        final_reestimated: test accuracy of the same weights when the statistics of batch
            normalisation, which training has left as its moving averages, are those of training
            images instead; None for a network without batch normalisation, and in old records.
        is_permutation: whether that network is bitwise a permutation of its start.
        seconds: wall time of training and evaluating; of runs side by side, that of all together.
        final_held_out: accuracy of that network on the training images held out, 0 to 1; None if
            there are none, and in old records.
        data_fingerprint: SHA-256 of the dataset, as `laperm_lib.paper.datasets.load` gives it.
    """

    hyperparameters: Hyperparameters
    seed: int
    fraction_pruned: float
    evaluations: tuple[Evaluation, ...]
    final: float
    is_permutation: bool
    seconds: float
    data_fingerprint: str
    final_reestimated: float | None = None
    final_held_out: float | None = None

    @property
    def selected(self) -> float | None:
        """The test accuracy of the synchronised network chosen on the images held out, 0 to 1.

        Of the networks right after a synchronisation that were evaluated, and the final one, it is
        that with the best accuracy on the training images held out, the first of several. The test
        images had no say in it. None if no images were held out, or no such network was evaluated.
        """
        choices = [(e.held_out, e.accuracy) for e in self.evaluations if e.since_sync == 0]
        choices.append((self.final_held_out, self.final))
        measured = [(seen, accuracy) for seen, accuracy in choices if seen is not None]
        return max(measured, key=lambda choice: choice[0])[1] if measured else None

    @property
    def published_protocol(self) -> float:
        """The best test accuracy at any evaluation, that of the final network included, 0 to 1.

        The published code picks networks so, at steps that need not be synchronisations. It is an
        optimistic number: the test images chose the step.
        """
        return max([self.final, *(e.accuracy for e in self.evaluations)])

    def best(self, since_sync: int = 0) -> float:
        """The best test accuracy at any evaluation so long after a synchronisation.

        Raises:
            ValueError: if there was no such evaluation.
        """
        found = [e.accuracy for e in self.evaluations if e.since_sync == since_sync]
        if not found:
            raise ValueError(f"No evaluation {since_sync} steps after a synchronisation.")
        return max(found)


@dataclass(frozen=True)
class Run(Outcome):
    """A training just done: its outcome, and the network.

    Args:
        model: the trained network, synchronised.
        environment: versions, hardware and code revision of the training; where a cut one went on
            with others, the values of each. Its `side_by_side` is how many runs were trained
            together.
    """

    model: keras.Model
    environment: dict[str, str]
