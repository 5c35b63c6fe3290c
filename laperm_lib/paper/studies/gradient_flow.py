"""Gradient flow of sparse and dense networks of the same capacity: which findings hold here.

References:
    Tessera, Hooker and Rosman, "Keep the Gradients Flowing", arXiv 2102.01670: effective gradient
    flow (section 2) and the same-capacity comparison (section 3).
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from laperm_lib._arguments import check_name
from laperm_lib.callbacks import GradientFlowHistory
from laperm_lib.paper._extras import extra
from laperm_lib.paper.evaluation import Images
from laperm_lib.paper.methods import SGD, Adam, LaPerm
from laperm_lib.paper.networks import SameCapacityNetwork
from laperm_lib.paper.records import Record, complete
from laperm_lib.paper.settings import Data, Schedule, Settings
from laperm_lib.paper.training import Watch, run

with extra("paper"):
    from scipy import stats

SEEDS = tuple(range(6))
"""The least number of seeds with which the signed-rank test can go below 0.05."""

OPTIMIZERS = {
    "sgd": (SGD(keep_zeros=True), 0.1),
    "adam": (Adam(summed_loss=False, keep_zeros=True), 1e-3),
    "laperm": (LaPerm(inner=Adam(summed_loss=False), sync_period=50), 1e-3),
}
"""Methods and their constant learning rates, by name."""

_FLOW_SAMPLES = 500


def by_optimizer(settings: Settings, name: str) -> Settings:
    """The same settings with one of the `OPTIMIZERS`."""
    method, rate = OPTIMIZERS[name]
    return settings.replace(method=method, learning_rate=rate)


_MLP = Settings(
    network=SameCapacityNetwork(units=(32, 32, 32)),
    data=Data(dataset="mnist"),
    method=OPTIMIZERS["adam"][0],
    schedule=Schedule(epochs=2, batch_size=128),
    evaluate_every=200,
)
_CONV = _MLP.replace(network=SameCapacityNetwork(filters=(4, 8), factor=3), epochs=1)


def _varied(settings: Settings, **changes: Any) -> list[Settings]:
    """Without and with batch normalisation, and other changes of the network."""
    return [settings.replace(batch_norm=batch_norm, **changes) for batch_norm in (False, True)]


def _base(settings: Settings) -> list[Settings]:
    """Sparse against dense, by every optimizer, without and with batch normalisation."""
    return [
        by_optimizer(one, optimizer).replace(capacity=capacity)
        for optimizer in OPTIMIZERS
        for one in _varied(settings)
        for capacity in ("dense", "sparse")
    ]


def _variants(settings: Settings) -> list[Settings]:
    """What is said to help, and sparse networks whose initial weights have He's variance."""
    sgd_and_adam = [by_optimizer(settings, optimizer) for optimizer in ("sgd", "adam")]
    penalised = [
        varied.replace(capacity=capacity)
        for one in sgd_and_adam
        for varied in _varied(one, l2=1e-4)
        for capacity in ("dense", "sparse")
    ]
    activated = [
        varied
        for one in sgd_and_adam
        for activation in ("swish", "prelu")
        for varied in _varied(one, activation=activation, capacity="sparse")
    ]
    rescaled = [by_optimizer(settings, name).replace(capacity="rescaled") for name in OPTIMIZERS]
    return [*penalised, *activated, *rescaled]


STUDIES: dict[str, tuple[Settings, ...]] = {
    "mlp": (*_base(_MLP), *_variants(_MLP)),
    "conv": tuple(_base(_CONV)),
}
"""The trainings of each study. "mlp" has three hidden layers of 32 neurons, four times as wide
where sparse; "conv" two convolutions of 4 and 8 filters, three times as wide."""


class FlowWatch(Watch):
    """Measures gradient norms on 500 training images, at the start and every so many steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.periods = (every,)

    def begin(self, images: Images, last_step: int) -> None:
        sample = slice(_FLOW_SAMPLES)
        self._history = GradientFlowHistory(
            images.x_train[sample], images.y_train[sample], every=self.periods[0]
        )
        self.before = [self._history]

    def measured(self) -> dict[str, Any]:
        at_steps = [measured.layers for measured in self._history.history.values()]
        # Four digits, which is more than two seeds have in common.
        norms, effective = (
            [[float(f"{getattr(layer, name):.4g}") for layer in layers] for layers in at_steps]
            for name in ("norm", "effective")
        )
        return {
            "steps": list(self._history.history),
            "active": [layer.active for layer in at_steps[-1]],
            "norms": norms,
            "effective": effective,
        }


def train(settings: Settings, seed: int, **how: Any) -> Record:
    """Train one side of a comparison; its gradient flow is in the record's `measured`.

    Args:
        settings: as in `STUDIES`.
        seed: as for `training.run`.
        **how: more arguments of that.

    Examples:
        >>> record = train(STUDIES["conv"][0].replace(dataset="digits"), seed=0)
        >>> record.measured["steps"], len(record.measured["effective"][0])  # one norm a kernel
        ([0, 12], 3)
    """
    return run(settings, seed=seed, watches=[FlowWatch(settings.evaluate_every)], **how)


def write(
    study: str,
    folder: str | os.PathLike[str] = "pretrained/gradient_flow",
    *,
    seeds: Iterable[int] = SEEDS,
    data_dir: str | None = None,
    verbose: int = 0,
) -> None:
    """Train what is missing of a study, and write each record to "STUDY.json" at once."""
    check_name("study", study, STUDIES)
    planned = [(settings, seed) for seed in seeds for settings in STUDIES[study]]
    make = partial(train, experiment=study, data_dir=data_dir)
    complete(Path(folder, f"{study}.json"), planned, make, verbose)


@dataclass(frozen=True)
class Comparison:
    """Differences between two kinds of runs, one for each seed."""

    mean: float
    positive: int  # how many differences are above 0
    seeds: int
    p_value: float  # of the Wilcoxon signed-rank test, two-sided


def wilcoxon(differences: Iterable[float]) -> Comparison:
    """Test whether runs that are paired by their seed differ.

    Raises:
        ValueError: if there are no differences.

    Examples:
        >>> wilcoxon([1, 2, 3, 4, 5, 6]).p_value
        0.03125
    """
    values = np.array(list(differences), dtype=float)
    if not values.size:
        raise ValueError("There are no differences to test.")
    p_value = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    return Comparison(float(values.mean()), int((values > 0).sum()), values.size, p_value)


def features(settings: Settings) -> dict[str, Any]:
    """What the trainings of one study differ in."""
    values = settings.values()
    name = next(n for n, (method, _) in OPTIMIZERS.items() if type(method) is type(settings.method))
    shared = ("capacity", "batch_norm", "activation", "l2")
    return {"optimizer": name} | {key: values[key] for key in shared}


def accuracy(record: Record) -> float:
    """The test accuracy in percent, with re-estimated statistics of batch normalisation."""
    found = record.final if record.final_reestimated is None else record.final_reestimated
    assert found is not None
    return 100 * found


def effective_flow(record: Record) -> float:
    """The effective gradient flow, the mean over the measurements after the first step."""
    return float(np.mean(record.measured["effective"][1:]))


def _log_flow(record: Record) -> float:
    return math.log2(effective_flow(record))


@dataclass(frozen=True)
class Finding:
    """A published finding in one setting, beside what was measured here."""

    claim: str
    setting: str
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """[Re] or [¬Re] where the test, two-sided at 0.05, decides; otherwise "open"."""
        if self.comparison.p_value >= 0.05:
            return "open"
        return "[Re]" if self.comparison.mean > 0 else "[¬Re]"


CLAIMS = {
    "batch norm": "batch normalisation raises accuracy more in the sparse network",
    "adaptive": "gradient flow is larger under Adam than under SGD",
    "l2": "gradient flow is larger with an L2 penalty",
    "swish": "Swish raises the accuracy of the sparse network",
    "prelu": "PReLU raises the accuracy of the sparse network",
}
"""The published findings, each as a difference that can be tested."""


def findings(records: Sequence[Record]) -> list[Finding]:
    """Test the published findings in every setting that a study has.

    Differences are in points of accuracy, or in binary logarithms of gradient flow.

    Examples:
        >>> from laperm_lib.paper import manifest, records
        >>> path = manifest.default_folder() / "gradient_flow" / "conv.json"
        >>> first = findings(records.load(path))[0]
        >>> first.claim, first.setting, first.verdict
        ('batch norm', 'sgd', '[Re]')
    """

    def at(measure: Callable[[Record], float], **wanted: Any) -> dict[int, float]:
        wanted = {"batch_norm": False, "activation": "relu", "l2": 0.0} | wanted
        return {r.seed: measure(r) for r in records if features(r.settings) == wanted}

    def difference(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
        return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}

    def add(claim: str, setting: str, one: dict[int, float], other: dict[int, float]) -> None:
        found.append(Finding(claim, setting, wilcoxon(difference(one, other).values())))

    found: list[Finding] = []
    for optimizer in OPTIMIZERS:
        gains = [
            difference(
                at(accuracy, optimizer=optimizer, capacity=capacity, batch_norm=True),
                at(accuracy, optimizer=optimizer, capacity=capacity),
            )
            for capacity in ("sparse", "dense")
        ]
        add("batch norm", optimizer, *gains)
    has_variants = any(features(record.settings)["l2"] for record in records)
    for batch_norm in (False, True):
        beside = ", batch norm" if batch_norm else ""
        for capacity in ("dense", "sparse"):
            here: dict[str, Any] = {"capacity": capacity, "batch_norm": batch_norm}
            adam, sgd = (at(_log_flow, optimizer=name, **here) for name in ("adam", "sgd"))
            add("adaptive", f"{capacity}{beside}", adam, sgd)
        for optimizer in ("sgd", "adam") if has_variants else ():
            for capacity in ("dense", "sparse"):
                here = {"optimizer": optimizer, "capacity": capacity, "batch_norm": batch_norm}
                pair = at(_log_flow, l2=1e-4, **here), at(_log_flow, **here)
                add("l2", f"{optimizer}, {capacity}{beside}", *pair)
            here = {"optimizer": optimizer, "capacity": "sparse", "batch_norm": batch_norm}
            for activation in ("swish", "prelu"):
                pair = at(accuracy, activation=activation, **here), at(accuracy, **here)
                add(activation, f"{optimizer}{beside}", *pair)
    return sorted(found, key=lambda finding: list(CLAIMS).index(finding.claim))
