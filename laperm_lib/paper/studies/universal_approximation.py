r"""One hidden layer that approximates by permuting: a construction, and what training finds.

For every bias b of `width` evenly spaced ones in [0, 1] there are two hidden units, the ramps
relu(x - b) and relu(b - x), and a pair of output coefficients, a value and its negative; all values
differ. Only the order of the coefficients is free, and where the output is trained a scale and a
shift of it:

.. math:: N(x) = \alpha + \gamma \sum_i \big( p_i\, (x - b_i)_+ + q_i\, (b_i - x)_+ \big).

Cai, Chen and Qiao prove that such networks approximate every continuous function on an interval.
`construct` does it for evenly spaced values. It was worked out from the theorem's statement, and
differs from the published proof: a step takes two pairs of values, where the paper's takes four;
heights are those of a running sum, rounded, at places that do not depend on the function; scale and
shift are computed (the paper also proves the case where they are fixed); and the width is even. The
random start here has random values at evenly spaced biases.

The records are made by::

    from laperm_lib.paper.studies import universal_approximation
    universal_approximation.write("pretrained/universal_approximation")

References:
    Cai, Chen and Qiao, "Neural networks trained by weight permutation are universal approximators",
    Neural Networks 187 (2025), arXiv 2407.01033.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from laperm_lib import files
from laperm_lib._arguments import check_integer
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.paper._extras import extra
from laperm_lib.paper.records import from_json, to_json
from laperm_lib.permutation import is_permutation

with extra("paper"):
    from scipy import stats
    from sklearn.datasets import load_diabetes, make_friedman1
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

_log = logging.getLogger(__name__)


class Target(NamedTuple):
    """A function on [0, 1], and the largest slope that it has."""

    function: Callable[[np.ndarray], np.ndarray]
    slope: float


TARGETS = {
    "sine": Target(lambda x: np.sin(2 * np.pi * x), 2 * np.pi),
    "triangle": Target(lambda x: 2 * np.abs(2 * ((x + 0.25) % 1) - 1) - 1, 4.0),
    "bump": Target(lambda x: np.exp(-100 * (x - 0.5) ** 2), math.sqrt(200 / math.e)),
}
"""What is approximated, by name: smooth, with kinks, and mostly flat."""

WIDTHS = tuple(10 * 2**power for power in range(9))
SEEDS = (0, 1, 2)
GRID = np.linspace(0, 1, 4001)
"""Where the error is measured."""

# -- the construction -----------------------------------------------------------------------------


def biases(width: int) -> np.ndarray:
    """Evenly spaced from 0 to 1, shape (width,)."""
    return np.linspace(0, 1, width)


def ramps(x: np.ndarray, width: int) -> np.ndarray:
    """The hidden units at x, shape (len(x), 2 width): all rising ramps, then all falling ones."""
    distance = x[:, None] - biases(width)
    return np.maximum(np.concatenate([distance, -distance], axis=1), 0)


def start(width: int, values: str, seed: int) -> np.ndarray:
    """Coefficients in random order, shape (2 width,): pairs of values "equidistant" or "random"."""
    random = np.random.default_rng(seed)
    if values == "equidistant":
        own = np.arange(1, width + 1) / width
    else:
        own = random.uniform(0, 1, width)
    return random.permutation(np.concatenate([own, -own]))


@dataclass(frozen=True)
class Construction:
    """A network that `construct` has made; call it with x of shape (points,)."""

    coefficients: np.ndarray  # in the order of `ramps`, shape (2 width,)
    scale: float
    shift: float
    steps: np.ndarray  # of each two neighbouring biases: 1 up, -1 down, 0 unused; (width / 2,)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.shift + self.scale * ramps(x, len(self.coefficients) // 2) @ self.coefficients


def construct(function: Callable[[np.ndarray], np.ndarray], width: int) -> Construction:
    r"""Order evenly spaced values so that the network approximates a function on [0, 1].

    The values 1 / width to 1 are taken in couples, a low and a high one that always add up to the
    same. Two neighbouring biases have one couple with its negatives:

    - for a step up, a rising ramp of the low value minus one at the next bias, and falling ramps of
      the high value likewise. Together they are flat on both sides, and all steps are equally high;
      all signs are changed for a step down;
    - unused, each bias gets a value and its negative, which make a straight line. Half of the
      unused couples rise and half fall; the slopes cancel exactly, and a constant is left for the
      shift. If their number is odd, the last makes a step from the two middle values, which is
      lower than the others by the factor width + 1.

    The network is piecewise constant but for its steps, and follows the function as closely as
    whole steps can. `error_bound` says how closely.

    Args:
        function: of an array, shape (points,), as are its values.
        width: the number of biases, even.

    Raises:
        ValueError: if the width is odd or below 2.

    Examples:
        >>> network = construct(np.sqrt, 8)
        >>> network.steps
        array([1, 1, 0, 0])
        >>> np.sort(network.coefficients[network.coefficients > 0])
        array([0.125, 0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   ])

    References:
        Cai, Chen and Qiao 2025; see the head of this module for what differs.
    """
    check_integer("width", width, at_least=2)
    if width % 2:
        raise ValueError(f"width is {width}: it must be even, two biases make a step.")
    couples, gap = width // 2, 1 / (width - 1)
    # The middles of the flat pieces, and both ends.
    places = np.concatenate([[0.0], (2 * np.arange(1, couples) - 0.5) * gap, [1.0]])
    wanted = function(places) - function(places[:1])
    height = float(np.abs(np.diff(wanted)).max())
    steps, level = np.zeros(couples, int), 0.0
    for couple, target in enumerate(wanted[1:] / (height or 1.0)):
        steps[couple] = np.clip(np.rint(target - level), -1, 1)
        level += steps[couple]

    used, unused = np.flatnonzero(steps), np.flatnonzero(steps == 0)
    sign = steps.astype(float)
    sign[unused] = np.where(np.arange(len(unused)) % 2, -1.0, 1.0)
    low, high = np.empty((2, couples))
    order = np.concatenate([used, unused])  # the middle couple comes last
    low[order] = np.arange(1, couples + 1) / width
    high[order] = np.arange(width, couples, -1) / width
    is_step = steps != 0
    rising = np.stack([low, np.where(is_step, -low, high)], axis=1) * sign[:, None]
    falling = np.stack([np.where(is_step, high, -low), -high], axis=1) * sign[:, None]
    if len(unused) % 2:
        last = unused[-1]
        rising[last], falling[last] = (low[last], -low[last]), (-high[last], high[last])
    coefficients = np.concatenate([rising.ravel(), falling.ravel()])
    assert is_permutation(start(width, "equidistant", 0), coefficients)
    scale = height / ((1 + 1 / width) * gap)
    at_zero = ramps(np.zeros(1), width) @ coefficients
    shift = float(function(places[:1])[0] - scale * at_zero[0])
    return Construction(coefficients, scale, shift, steps)


def error_bound(slope: float, width: int) -> float:
    r"""How far the network of `construct` can be from a function of at most this slope, anywhere.

    With the gap h = 1 / (width - 1), a function of slope L changes by at most 2hL from one flat
    piece to the next, which is the most that a step is high. In the middle of a flat piece the
    network is within half a step, hL, and elsewhere on it the function has moved by hL / 2 more. On
    a step the network is a mean of both sides, from which the function has moved by hL more. The
    step that an odd number of unused couples leaves adds 2hL / (width + 1):

    .. math:: |N(x) - f(x)| \le 2 h L \, \Big(1 + \frac{1}{\text{width} + 1}\Big).

    Examples:
        >>> error_bound(1.0, 100) < 0.021
        True
    """
    return 2 * slope / (width - 1) * (1 + 1 / (width + 1))


# -- training -------------------------------------------------------------------------------------


def _surface() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).uniform(0, 1, (1000, 2))
    return x, np.sin(2 * np.pi * x[:, 0]) * np.sin(2 * np.pi * x[:, 1])


TABLES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "surface": _surface,
    "friedman1": lambda: make_friedman1(1000, noise=1.0, random_state=0),
    "diabetes": lambda: load_diabetes(return_X_y=True),
}
"""By name: sin(2 pi x) sin(2 pi y) without noise; Friedman's function of 5 of 10 variables with
noise of variance 1; and the progression of diabetes after a year, of 442 patients."""

CURVES = "curves"
_SELECTING = 1000  # the seed of the trials
_TRIAL_WIDTHS, _HIDDEN = (20, 160, 640), 64
_STEPS, _TABLE_STEPS, _BATCH = 6000, 3000, 128


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and how.

    Args:
        task: "curves", all `TARGETS` at once, or one of the `TABLES`.
        method: "laperm" or "adam"; for curves also "construction"; for tables also "linear", least
            squares, and "laperm_but_first", which leaves the first layer to Adam.
        width: the number of biases; None for tables, whose networks have two layers of 64.
        values: of the start, "equidistant" or "random"; None for tables.
        trained_output: whether scale and shift are trained, or 1 and 0; None for tables.
        rate: the learning rate, which falls to 0 by a cosine.
        sync_period: of LaPerm.
    """

    task: str = CURVES
    method: str = "laperm"
    width: int | None = None
    values: str | None = None
    trained_output: bool | None = None
    rate: float | None = None
    sync_period: int | None = None


@dataclass(frozen=True)
class Row:
    """What one training found: networks for several seeds, and for curves of all functions.

    `scores` are largest errors on `GRID` by function, one for each seed, or R² by table: on its
    test part, or if the seed is 1000, that of the trials, on the part for selection.
    """

    setting: Setting
    seeds: tuple[int, ...]
    scores: dict[str, tuple[float, ...]]


def _fit(model: keras.Model, setting: Setting, steps: int, x: np.ndarray, y: np.ndarray) -> None:
    """Train with each row once, in batches."""
    schedule = keras.optimizers.schedules.CosineDecay(setting.rate, steps)
    optimizer = keras.optimizers.Adam(schedule)
    if setting.sync_period:
        free = {"output": setting.trained_output, "first": setting.method == "laperm_but_first"}
        exclude = [layer for layer, is_free in free.items() if is_free]
        optimizer = LaPerm(optimizer, sync_period=setting.sync_period, exclude=exclude)
    model.compile(optimizer, loss="mse", steps_per_execution=50, jit_compile=False)
    model.fit(x, y, batch_size=_BATCH, shuffle=False, verbose=0)
    if setting.sync_period:
        assert optimizer.is_permutation()


def curves(setting: Setting, seeds: Sequence[int], steps: int = _STEPS) -> np.ndarray:
    """Train networks for all `TARGETS` and seeds at once, each output neuron being one of them.

    Args:
        setting: with a width.
        seeds: of the starts; the first also draws the points, which are the same for all.
        steps: training steps, of 128 points each. Default 6000.

    Returns:
        What the networks are on `GRID`, shape (targets, seeds, points).
    """
    width, functions = setting.width, [target.function for target in TARGETS.values()]
    assert width
    assert setting.values
    # Neurons share nothing, and Adam treats each weight by itself: they train as if alone.
    coefficients = [start(width, setting.values, seed) for seed in seeds] * len(functions)
    outputs = len(coefficients)
    keras.utils.set_random_seed(seeds[0])
    trained = bool(setting.trained_output)
    how: Any = {"bias_axes": "o", "kernel_initializer": "ones", "trainable": trained}
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(2 * width, activation="relu", trainable=False),
            layers.Dense(outputs, use_bias=False),
            layers.EinsumDense("bo,o->bo", outputs, name="output", **how),
        ]
    )
    signs = np.repeat([1.0, -1.0], width)
    model.layers[0].set_weights([signs[None], -signs * np.tile(biases(width), 2)])
    model.layers[1].set_weights([np.stack(coefficients, axis=1)])
    x = np.random.default_rng(seeds[0]).uniform(0, 1, (steps * _BATCH, 1)).astype("float32")
    y = np.concatenate([function(x) for function in functions for _ in seeds], axis=1)
    _fit(model, setting, steps, x, y)
    found = model.predict(GRID[:, None], batch_size=1024, verbose=0)
    keras.utils.clear_session()
    return found.T.reshape(len(functions), len(seeds), len(GRID))


def parts(count: int, *, selecting: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a table to train with and which to measure on, always the same.

    A fifth is the test part. To select settings, another fifth is measured on.
    """
    order = np.random.default_rng(0).permutation(count)
    fifth = count // 5
    if selecting:
        return order[2 * fifth :], order[fifth : 2 * fifth]
    return order[fifth:], order[:fifth]


def _table_score(setting: Setting, seed: int) -> float:
    """R² of one network, or of least squares; all columns are standardised."""
    x, y = TABLES[setting.task]()
    trained, measured = parts(len(x), selecting=seed == _SELECTING)
    x = (x - x[trained].mean(axis=0)) / x[trained].std(axis=0)
    y = (y - y[trained].mean()) / y[trained].std()
    if setting.method == "linear":
        found = LinearRegression().fit(x[trained], y[trained]).predict(x[measured])
    else:
        keras.utils.set_random_seed(seed)
        hidden = [
            layers.Dense(_HIDDEN, activation="relu", name=name) for name in ("first", "second")
        ]
        model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, layers.Dense(1)])
        drawn = trained[
            np.random.default_rng(seed).integers(len(trained), size=_TABLE_STEPS * _BATCH)
        ]
        _fit(model, setting, _TABLE_STEPS, x[drawn], y[drawn, None])
        found = model.predict(x[measured], verbose=0)[:, 0]
        keras.utils.clear_session()
    return round(float(r2_score(y[measured], found)), 6)


def run(setting: Setting, seeds: Sequence[int]) -> Row:
    """Train, or construct, and measure."""
    if setting.task != CURVES:
        scores = {setting.task: tuple(_table_score(setting, seed) for seed in seeds)}
        return Row(setting, tuple(seeds), scores)
    if setting.method == "construction":
        assert setting.width
        made = [construct(target.function, setting.width)(GRID) for target in TARGETS.values()]
        found = np.array(made)[:, None]
    else:
        found = curves(setting, seeds)
    errors = {
        name: np.abs(networks - target.function(GRID)).max(axis=-1)
        for (name, target), networks in zip(TARGETS.items(), found, strict=True)
    }
    scores = {name: tuple(round(float(e), 6) for e in each) for name, each in errors.items()}
    return Row(setting, tuple(seeds), scores)


# -- records --------------------------------------------------------------------------------------

_LAPERM_RATES, _PERIODS = (0.03, 0.1, 0.3), (20, 100, 400)
_ADAM_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_TABLE_LAPERM_RATES, _TABLE_PERIODS = (0.003, 0.01, 0.03), (5, 20, 100)
_TABLE_ADAM_RATES = (3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def _trials(base: Setting) -> list[Setting]:
    """Nine each: LaPerm's rates by its periods, and Adam's rates."""
    is_curve = base.task == CURVES
    if base.method == "adam":
        return [replace(base, rate=r) for r in (_ADAM_RATES if is_curve else _TABLE_ADAM_RATES)]
    rates = _LAPERM_RATES if is_curve else _TABLE_LAPERM_RATES
    periods = _PERIODS if is_curve else _TABLE_PERIODS
    return [replace(base, rate=r, sync_period=period) for r in rates for period in periods]


def _quality(row: Row) -> float:
    """What is chosen by: R², or the geometric mean of the errors, the smaller the better."""
    scores = np.array(list(row.scores.values()))
    return float(-np.log(scores).mean() if row.setting.task == CURVES else scores.mean())


def _chosen(rows: Sequence[Row], trials: Sequence[Setting]) -> Setting:
    """The setting of the best trial."""
    found = [row for row in rows if row.setting in trials and row.seeds == (_SELECTING,)]
    return max(found, key=_quality).setting


def planned(rows: Sequence[Row]) -> Iterator[tuple[Setting, tuple[int, ...]]]:
    """All settings with their seeds; `rows` grow meanwhile, and trials are read from them.

    Every method has nine trials, with a seed of their own: for each table, and at three widths, of
    which each width takes the settings of the nearest.
    """
    for width in WIDTHS:
        yield Setting(method="construction", width=width, trained_output=True), (0,)
    for task in TABLES:
        yield Setting(task=task, method="linear"), (0,)

    def choose(base: Setting) -> Iterator[tuple[Setting, tuple[int, ...]]]:
        trials = _trials(base)
        yield from ((trial, (_SELECTING,)) for trial in trials)
        chosen[base] = _chosen(rows, trials)

    chosen: dict[Setting, Setting] = {}
    methods = ("laperm", "adam", "laperm_but_first")
    for base in (Setting(task=task, method=each) for task in TABLES for each in methods):
        yield from choose(base)
        yield chosen[base], SEEDS
    bases = [
        Setting(method=method, values=values, trained_output=trained)
        for trained in (True, False)
        for values in ("equidistant", "random")
        for method in ("laperm", "adam")
    ]
    for width in WIDTHS:
        nearest = min(_TRIAL_WIDTHS, key=lambda trial: abs(math.log(trial / width)))
        for base in (replace(each, width=nearest) for each in bases):
            if base not in chosen:
                yield from choose(base)
            yield replace(chosen[base], width=width), SEEDS


def write(folder: str | os.PathLike[str]) -> None:
    """Train what is missing of "rows.json", and write each row at once."""
    path = Path(folder, "rows.json")
    rows = list(load(path)) if path.exists() else []
    for setting, seeds in planned(rows):
        if any(row.setting == setting and row.seeds == seeds for row in rows):
            continue
        rows.append(run(setting, seeds))
        _log.info("%s, %s", setting, rows[-1].scores)
        files.write_json(path, to_json(rows), indent=None)


def load(path: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Read what `write` has written."""

    def parse(content: Any) -> tuple[Row, ...]:
        return tuple(from_json(each, Row) for each in content)

    return files.read_json(path, parse, holds="rows of this study")


def final(rows: Sequence[Row], **setting: Any) -> list[Row]:
    """Those rows that are no trials and have such a setting."""
    return [
        row
        for row in rows
        if row.seeds != (_SELECTING,)
        and all(getattr(row.setting, name) == value for name, value in setting.items())
    ]


def errors(rows: Sequence[Row], function: str, **setting: Any) -> dict[int, tuple[float, ...]]:
    """By width, the largest errors of all seeds on a function, of the `final` rows."""
    found = final(rows, task=CURVES, **setting)
    return {row.setting.width or 0: row.scores[function] for row in found}


def exponent(found: dict[int, tuple[float, ...]]) -> tuple[float, float]:
    """The exponent p of errors that grow as width to the p, and half its 95 % interval.

    A straight line is fitted to the logarithms, with t for the interval.

    Examples:
        >>> power, half = exponent({width: (3 / width,) for width in (10, 20, 40)})
        >>> round(power, 6), half < 1e-6
        (-1.0, True)
    """
    points = [(width, error) for width, each in found.items() for error in each]
    line = stats.linregress(*np.log(points).T)
    return float(line.slope), float(line.stderr * stats.t.ppf(0.975, len(points) - 2))
