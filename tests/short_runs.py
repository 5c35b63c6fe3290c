"""A training of 48 steps on the bundled digits; and records whose numbers nothing has measured."""

from laperm_lib.paper.records import Evaluation, Record
from laperm_lib.paper.runs import Task
from laperm_lib.paper.settings import PUBLISHED, quick

SHORT = quick("f1").replace(epochs=4, sync_period=20, evaluate_every=20)
TASK = Task("f1", SHORT, 3)


def made(experiment, seed=0, final=0.5, evaluations=None, **values):
    """A record of an experiment with other values for some settings, as a run would leave it."""
    settings = PUBLISHED[experiment].replace(**values)
    if evaluations is None:
        evaluations = [Evaluation(1000, 0, final + 0.1, 0.3 if settings.data.held_out else None)]
    return Record(
        experiment=experiment,
        settings=settings,
        seed=seed,
        fraction_pruned=0.0,
        evaluations=tuple(evaluations),
        final=final,
        is_permutation=settings.method.period is not None,
        data_fingerprint="0",
        seconds=1.0,
    )
