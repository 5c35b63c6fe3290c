"""The settings of the paper's experiments, as dataclasses that everything else reads.

So far section 5.5: networks whose weights all share one value (f1, f2), trained by permutation.

References:
    Qiu and Suda, NeurIPS 2020, section 5.5, and the notebooks published with it.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Hyperparameters:
    """What a run depends on, beside its seed.

    Args:
        model: a name for `laperm_lib.models.build`.
        dataset: a name for `laperm_lib.datasets.load`.
        shared_value: the value that every kept weight starts with.
        keep: the probability that a weight is kept, for each kernel of the model.
        epochs: how often the training images are gone through.
        sync_period: steps between synchronisations.
        batch_size: images per step.
        learning_rate: Adam's rate in the first epoch.
        decay: the factor on the rate from one epoch to the next.
    """

    model: str
    dataset: str
    shared_value: float
    keep: tuple[float, ...]
    epochs: int
    sync_period: int = 250
    batch_size: int = 128
    learning_rate: float = 1e-3
    decay: float = 0.95


PUBLISHED = {
    "f1": Hyperparameters("f1", "mnist", shared_value=0.08, keep=(0.6,), epochs=10),
    "f1_notebook": Hyperparameters("f1", "mnist", shared_value=0.08, keep=(4 / 7,), epochs=10),
    "f2": Hyperparameters("f2", "mnist", shared_value=0.03, keep=(1 / 15, 1 / 7, 1 / 3), epochs=25),
}
"""The settings as published. f1 keeps 60 % of its weights, as its row of the paper (p = 40 %)
and the published file say; its notebook's probability is 4/7."""


def quick(name: str) -> Hyperparameters:
    """A published experiment on the bundled digits, cut down to seconds.

    An epoch of digits has 12 steps instead of 469, so there are 80, whose learning rates end where
    the published ones do, and the sync period is shorter.

    Args:
        name: a key of `PUBLISHED`.

    Returns:
        The published hyperparameters with another dataset, length, decay and sync period.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> quick("f1").dataset, quick("f1").keep == PUBLISHED["f1"].keep
        ('digits', True)
    """
    published = hyperparameters(name)
    epochs = 80
    decay = published.decay ** (published.epochs / epochs)
    return replace(published, dataset="digits", epochs=epochs, decay=decay, sync_period=100)


def hyperparameters(name: str) -> Hyperparameters:
    """The published hyperparameters of an experiment.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> hyperparameters("f1").batch_size
        128
    """
    if name not in PUBLISHED:
        raise ValueError(f"Unknown experiment {name!r}; there are {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]
