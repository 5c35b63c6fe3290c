"""What all averages of weight samples share: when a sample is due, and where an average is put.

They are callbacks and not wrappers of optimizers, so that they compose with any optimizer, leave
the compiled training step as it is, and can swap averaged weights into the model for evaluation.
The price: a callback sees only every so many steps if `steps_per_execution` is above 1, so a sample
period must be a multiple of it.

Two things go with the weights that are put into a model. The statistics of batch normalisation fit
the weights of training only, so they are re-estimated. And an average of permutations is no
permutation: a model that LaPerm trains can be synchronised once it holds it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from laperm_lib import batch_statistics
from laperm_lib._arguments import check_integer
from laperm_lib._backend import reattach
from laperm_lib.optimizers.laperm import laperm_of
from laperm_lib.optimizers.permuting import steps_taken

Weights: TypeAlias = list[np.ndarray]
"""One array for each trainable variable of a model, in the order of `model.trainable_variables`."""


class WeightSampler(keras.callbacks.Callback):
    """A callback of `fit` that samples the weights and averages the samples: base of the others.

    A sample is a copy of all trainable weights, float32 (float64 for weights of that type), on the
    host. Samples are taken after the steps `start + sample_period`, `start + 2 sample_period` and
    so on, counted by the optimizer. One callback is for one training, which may be several calls of
    `fit`. `keras.callbacks.ModelCheckpoint` saves the weights of training; to save the average, do
    so inside `averaged`.

    Subclasses say in `_add` what becomes of a sample, and keep in `_kept` what they need.

    Args:
        sample_period: steps between two samples, at least 1.
        start: the steps before sampling begins. Default 0.
        batches: inputs to re-estimate the statistics of batch normalisation with, whenever an
            average is put into the model, as for `laperm_lib.batch_statistics.reestimate`. Default:
            none, for a model without batch normalisation.
        synchronise: whenever an average is put into the model, let its `LaPerm` synchronise it.
            Default False: the average is not a permutation of the initial weights.
        in_validation: the validation of `fit` sees the average, once there is one. Default True.

    Raises:
        ValueError: for an argument outside its range, or batches that can be read only once; when
            `fit` starts, if callbacks would not see the steps of the samples, the model has batch
            normalisation and there are no batches, it is to be synchronised and `LaPerm` does not
            train it, or earlier samples are of another model.
    """

    def __init__(
        self,
        *,
        sample_period: int,
        start: int = 0,
        batches: Iterable[Any] = (),
        synchronise: bool = False,
        in_validation: bool = True,
    ) -> None:
        super().__init__()
        self.sample_period = check_integer("sample_period", sample_period, at_least=1)
        self.start = check_integer("start", start, at_least=0)
        batch_statistics.check_batches(batches)
        self.batches = batches
        self.synchronise = bool(synchronise)
        self.in_validation = bool(in_validation)
        self.samples = 0
        """How many samples have been taken."""
        self._kept: list[Weights] = []
        self._passed = 0  # sample times up to the last step seen

    # -- what subclasses say ----------------------------------------------------------------------

    def _add(self, weights: Weights) -> None:
        """Take in a sample, the `samples`-th; it is the subclass's own now."""
        raise NotImplementedError

    def _average(self) -> Weights | None:
        """The present average, or None before the first."""
        return self._kept[0] if self._kept else None

    # -- the average ------------------------------------------------------------------------------

    @property
    def average(self) -> Weights:
        """The present average, before it is synchronised; a ValueError if there is none yet."""
        average = self._average()
        if average is None:
            raise ValueError("There is no average yet: no sample period or window is over.")
        return average

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the average: evaluate or save the network in it.

        After the `with`, also if something raises, weights and statistics are bitwise what they
        were.
        """
        return replaced(
            self.model, self.average, batches=self.batches, synchronise=self.synchronise
        )

    def adopt(self) -> None:
        """Put the average into the model for good, with its statistics of batch normalisation."""
        replace(self.model, self.average, batches=self.batches, synchronise=self.synchronise)

    # -- the state --------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """What an interrupted training needs of this callback, as arrays for `Checkpoints`."""
        arrays = {"samples": np.array(self.samples)}
        for number, weights in enumerate(self._kept):
            for place, array in enumerate(weights):
                arrays[f"{number:04d}/{place:04d}"] = array.copy()
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from the `state` of a callback with the same arguments, before `fit`."""
        self.samples = int(state["samples"])
        kept: dict[str, Weights] = {}
        for name in sorted(state.keys() - {"samples"}):
            kept.setdefault(name.split("/")[0], []).append(np.array(state[name]))
        self._kept = list(kept.values())

    # -- Keras calls these ------------------------------------------------------------------------

    def on_train_begin(self, logs: object = None) -> None:
        """Refuse what cannot work, before anything is trained."""
        model = self.model
        step = steps_taken(model)
        self._check_steps(model.steps_per_execution, step)
        if batch_statistics.normalizations(model) and next(iter(self.batches), None) is None:
            raise ValueError(
                f"'{model.name}' has batch normalisation, whose statistics do not fit averaged "
                "weights: pass batches of inputs to re-estimate them with."
            )
        if self.synchronise:
            laperm_of(model)
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        others = [[array.shape for array in weights] != shapes for weights in self._kept]
        if model.built and any(others):
            raise ValueError("The samples so far are of another model; use a new callback.")
        self._passed = self._passed_at(step)
        if self.in_validation and not isinstance(model.evaluate, _Evaluate):
            model.evaluate = _Evaluate(model)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Take a sample, if one is due."""
        model = self.model  # on JAX, asking for it gives the model its state back
        step = steps_taken(model)
        passed = self._passed_at(step)
        if passed == self._passed:
            return
        late = (step - self.start) % self.sample_period
        if passed > self._passed + 1 or (late and not _may_skip_steps(model)):
            raise ValueError(
                f"A sample was due before step {step}, but callbacks did not see that step; the "
                f"steps of an epoch are not a multiple of {model.steps_per_execution}."
            )
        self._passed = passed
        self.samples += 1
        self._add(weights_of(model))

    def on_train_end(self, logs: object = None) -> None:
        """Restore the model's own `evaluate`."""
        model = self.model
        if isinstance(model.evaluate, _Evaluate):
            model.evaluate.remove(model)

    def _passed_at(self, step: int) -> int:
        return max(0, (step - self.start) // self.sample_period)

    def _check_steps(self, at_once: int, step: int) -> None:
        """Refuse sample times between those at which Keras calls callbacks."""
        for name, value in (("sample_period", self.sample_period), ("start", self.start)):
            if value % at_once:
                raise ValueError(
                    f"{name} must be a multiple of steps_per_execution={at_once}, because "
                    f"callbacks see no steps in between; got {value}."
                )
        steps = self.params["steps"]  # None if Keras does not know
        begins_between = step % at_once and not _may_skip_steps(self.model)
        if begins_between or (self.params["epochs"] > 1 and (steps or 0) % at_once):
            raise ValueError(
                f"With steps_per_execution={at_once} callbacks will not see every "
                f"{self.sample_period} steps: training continues from step {step}, and an epoch "
                f"has {steps}. Both must be multiples of it."
            )


class _Evaluate:
    """A model's `evaluate` by which the evaluations that `fit` makes see an average.

    `on_test_begin` and `on_test_end` would not do: if an evaluation raises, Keras calls neither,
    and the training weights would be lost. If `fit` itself raises, this stays on the model, does
    nothing, and is removed by the next `fit` with such callbacks.
    """

    def __init__(self, model: keras.Model) -> None:
        self._evaluate, self._own = model.evaluate, vars(model).get("evaluate")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given: Any = kwargs.get("callbacks")
        of_fit = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else []
        samplers = [c for c in of_fit if isinstance(c, WeightSampler) and c.in_validation]
        if not any(sampler._average() is not None for sampler in samplers):
            return self._evaluate(*args, **kwargs)
        if len(samplers) > 1:
            raise ValueError(
                "Validation can see only one average: pass in_validation=False to all other "
                "callbacks that average weights."
            )
        with samplers[0].averaged():
            return self._evaluate(*args, **kwargs)

    def remove(self, model: keras.Model) -> None:
        """Put back what was there: the method of the class, or the model's own function."""
        if self._own is None:
            del model.evaluate
        else:
            model.evaluate = self._own


def _may_skip_steps(model: keras.Model) -> bool:
    """Whether loss scaling may skip a step: a sample is then taken at the next chance."""
    return isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def move(average: Weights, towards: Weights, share: float) -> None:
    """Move an average towards a sample in place: a <- a + s (w - a); the sample is overwritten."""
    for mean, weights in zip(average, towards, strict=True):
        weights -= mean
        weights *= share
        mean += weights


# -- other weights in a model ---------------------------------------------------------------------


def weights_of(model: keras.Model) -> Weights:
    """Copies of a model's trainable weights, float32 (exact for smaller types) or float64."""
    return [
        np.array(ops.convert_to_numpy(v), "float64" if v.dtype == "float64" else "float32")
        for v in model.trainable_variables
    ]


def replace(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    *,
    batches: Iterable[Any] | None = (),
    synchronise: bool = False,
) -> None:
    """Put other weights into a model for good; all of this or, with an error, nothing.

    `batches` of None leave the statistics of batch normalisation as they are.
    """
    before = weights_of(model)
    try:
        _put(model, weights, synchronise)
        if batches is not None:
            batch_statistics.reestimate(model, batches)
    except BaseException:
        _assign(model, before)
        raise


@contextmanager
def replaced(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    *,
    batches: Iterable[Any] = (),
    synchronise: bool = False,
) -> Iterator[None]:
    """`replace` for the length of a `with`; then, bit for bit, everything is as it was."""
    before = weights_of(model)
    try:
        _put(model, weights, synchronise)
        with batch_statistics.reestimated(model, batches):
            try:
                yield
            finally:
                reattach(model)  # before the old statistics are put back
    finally:
        _assign(model, before)


def _put(model: keras.Model, weights: Sequence[np.ndarray], synchronise: bool) -> None:
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    if [array.shape for array in weights] != shapes:
        raise ValueError(f"The weights do not have the shapes of those of '{model.name}'.")
    laperm = laperm_of(model) if synchronise else None
    _assign(model, weights)
    if laperm is not None:
        laperm.synchronise()


def _assign(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
