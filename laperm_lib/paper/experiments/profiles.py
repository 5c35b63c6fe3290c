"""The paper's experiments by name: as published, cut down to a tenth, or to seconds.

References:
    Qiu and Suda, NeurIPS 2020, section 5, and the notebooks published with it.
"""

import math
from dataclasses import replace

from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters

_CONV7 = Hyperparameters(
    model="conv7",
    dataset="mnist",
    epochs=45,
    sync_period=1200,
    permute_biases=True,
    decay=0.95,
    augmentation=Augmentation(rotation=10, zoom=0.1, shift=0.1),
    evaluate_every=1200,
)
_CONV2 = Hyperparameters(
    model="conv2",
    dataset="cifar10",
    epochs=125,
    sync_period=1000,
    decay=0.6,
    decay_every=10,
    augmentation=Augmentation(rotation=15, shift=0.1, flip=True),
)
_RESNET50 = Hyperparameters(
    model="resnet50",
    dataset="cifar10",
    epochs=200,
    sync_period=400,
    milestones=((80, 1e-1), (120, 1e-2), (160, 1e-3), (180, 0.5e-3)),
    augmentation=Augmentation(shift=0.1, flip=True),
)
_F1 = Hyperparameters(
    model="f1",
    dataset="mnist",
    epochs=10,
    sync_period=250,
    batch_size=128,
    decay=0.95,
    shared_value=0.08,
    keep=(0.6,),
    evaluate_every=250,
)

PUBLISHED = {
    "conv7": _CONV7,
    "conv2": _CONV2,
    "conv4": replace(_CONV2, model="conv4"),
    "conv13": replace(_CONV2, model="conv13"),
    "resnet50": _RESNET50,
    "resnet50_30": replace(_RESNET50, pruned=0.3, sync_period=800),
    "resnet50_50": replace(_RESNET50, pruned=0.5, sync_period=800),
    "resnet50_70": replace(_RESNET50, pruned=0.7, sync_period=800),
    "f1": _F1,
    "f1_notebook": replace(_F1, keep=(4 / 7,)),
    "f2": replace(_F1, model="f2", epochs=25, shared_value=0.03, keep=(1 / 15, 1 / 7, 1 / 3)),
}
PUBLISHED |= {
    f"{name}_adam": replace(settings, sync_period=None) for name, settings in PUBLISHED.items()
}
"""The settings as published, and for each network Adam alone, from the same start: it may give a
weight that starts as zero another value, and one shared value becomes many. f1 keeps 60 % of its
weights, as its row of the paper (p = 40 %) and the published file say; its notebook's probability
is 4/7. conv7 has the period of the published weights; its notebook's is 20."""


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


def quick(name: str) -> Hyperparameters:
    """A published experiment on the bundled digits, cut down to seconds.

    The digits are enlarged to the images that the network takes. They make few steps in an epoch,
    so there are other numbers of epochs, over which the learning rate falls as far as published,
    and the sync period is shorter.

    Args:
        name: a key of `PUBLISHED`.

    Returns:
        The published hyperparameters with another dataset, length, rates and sync period.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> quick("f1").dataset, quick("f1").keep == PUBLISHED["f1"].keep
        ('digits', True)
    """
    published = hyperparameters(name)
    epochs, period = (80, 100) if published.shared_value is not None else (4, 20)
    return replace(
        _in_epochs(published, epochs),
        dataset="digits",
        sync_period=None if published.sync_period is None else period,
        evaluate_every=period,
    )


def short(name: str) -> Hyperparameters:
    """A published experiment cut down to a tenth, on its own data, for a machine with few cores.

    f1 and f2, which take seconds, stay as published. The others take a tenth of the epochs, over
    which the learning rate falls as far as published. For the networks on CIFAR-10 these are the
    published rates, each for a tenth of its epochs: 13 epochs for conv2, conv4 and conv13, one at
    each of their 13 rates, and 20 for resnet50. conv7 has a new rate in each of its 45 epochs, and
    five of them here. All else is as published.

    Args:
        name: a key of `PUBLISHED`.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> short("conv2").epochs, short("resnet50").epochs, short("f1") == PUBLISHED["f1"]
        (13, 20, True)
        >>> short("conv2").rate(12) == PUBLISHED["conv2"].rate(124)
        True
        >>> [round(1000 * short("conv7").rate(epoch), 3) for epoch in range(5)]
        [1.0, 0.569, 0.324, 0.184, 0.105]
    """
    published = hyperparameters(name)
    if published.shared_value is not None:
        return published
    return _in_epochs(published, math.ceil(published.epochs / 10))


def _in_epochs(published: Hyperparameters, epochs: int) -> Hyperparameters:
    """Another number of epochs, over which the learning rate falls as far."""
    share = epochs / published.epochs
    last = (published.epochs - 1) // published.decay_every  # how often the published rate decays
    return replace(
        published,
        epochs=epochs,
        decay=published.decay ** (last / max(1, epochs - 1)),
        decay_every=1,
        milestones=tuple((int(after * share), factor) for after, factor in published.milestones),
    )


PROFILES = {"quick": quick, "short": short, "paper": hyperparameters}
"""The settings that an experiment's name stands for, by the name of the profile. These take seconds
on the bundled digits, a tenth of the epochs, or what was published."""
