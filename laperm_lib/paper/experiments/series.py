"""Runs as the paper's figures show them: accuracy over epochs, over sync period, over pruning.

Each function gives, for each place on the x axis, the accuracies of all seeds, which is what
`laperm_lib.paper.plotting.over_seeds` draws.

References:
    Qiu and Suda, NeurIPS 2020, figures of sections 5.1 to 5.4.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from laperm_lib.paper.experiments import catalogue, results
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.outcome import Outcome
from laperm_lib.paper.experiments.records import Record


def alike(
    found: Iterable[Record], experiment: str, setting: str | None = None
) -> dict[str, list[Record]]:
    """The runs of an experiment that train what is published, those with equal settings together.

    Args:
        found: the records.
        experiment: a key of `laperm_lib.paper.experiments.PUBLISHED`.
        setting: a field of `Hyperparameters` in which they may differ. Default: none.

    Returns:
        For the settings in words, the records. Those of a list differ in seed, precision and that
        setting alone; where one seed was trained in several precisions, not in precision. The words
        are short enough for a legend on a phone: the profile, and what else runs of one profile
        differ in, by its value alone where that is a word.

    Examples:
        >>> alike([], "conv7")
        {}
    """
    own = [record for record in found if record.experiment == experiment]
    runs = [(results.variant_of(record).without(setting), record) for record in own]
    groups = results.grouped(run for run in runs if run[0].is_as_published)
    return {
        _in_words(variant, [v for v in groups if v.profile == variant.profile], records): records
        for variant, records in groups.items()
    }


def _in_words(
    variant: catalogue.Variant, rivals: Sequence[catalogue.Variant], records: Iterable[Record]
) -> str:
    words = [
        value if isinstance(value, str) else f"{name}={value}"
        for name, value in variant.telling_apart(rivals).differing
    ]
    # The usual precision is no difference, and yet what tells from another one.
    precisions = {record.hyperparameters.precision for record in records}
    usual = precisions == {Hyperparameters.precision}
    if usual and any("precision" in dict(rival.differing) for rival in rivals):
        words.extend(precisions)
    return ", ".join([variant.profile, *words])


def by_epoch(runs: Iterable[Outcome]) -> dict[float, list[float]]:
    """Test accuracies of synchronised networks, and of Adam's, by the epochs gone through.

    Args:
        runs: the runs, or records of them.

    Returns:
        For each number of epochs, not always a whole one, the accuracies of the runs that were
        evaluated then.
    """
    series: dict[float, list[float]] = {}
    for run in runs:
        settings = run.hyperparameters
        steps = catalogue.steps(settings) // settings.epochs
        for evaluation in run.evaluations:
            if evaluation.since_sync == 0:
                series.setdefault(evaluation.step / steps, []).append(evaluation.accuracy)
    return series


def by_setting(runs: Iterable[Outcome], setting: str) -> dict[Any, list[float]]:
    """Accuracies of the networks at the end, by the value of a setting.

    Args:
        runs: the runs, or records of them.
        setting: a field of `Hyperparameters`.

    Returns:
        For each value the `final` accuracies of the runs that have it.
    """
    series: dict[Any, list[float]] = {}
    for run in runs:
        series.setdefault(getattr(run.hyperparameters, setting), []).append(run.final)
    return series
