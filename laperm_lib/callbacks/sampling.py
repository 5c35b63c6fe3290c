"""What all averages of weight samples share: when a sample is due, and where an average is put.

They are callbacks and not wrappers of optimizers, so that they compose with any optimizer, leave
the compiled training step as it is, and can swap averaged weights into the model for evaluation.
The price: a callback sees only every so many steps if `steps_per_execution` is above 1, so a sample
period must be a multiple of it.

Two things go with the weights that are put into a model. The statistics of batch normalisation fit
the weights of training only, so they are re-estimated. And an average of permutations is no
permutation: a model that LaPerm trains can be synchronised once it holds it.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from laperm_lib import batch_statistics
from laperm_lib._arguments import check_bool, check_integer
from laperm_lib._backend import reattach
from laperm_lib.optimizers.permuting import nested, optimizer_of, steps_taken
from laperm_lib.optimizers.projecting import ProjectingOptimizer, projecting_of, synchronise_all

Weights: TypeAlias = list[np.ndarray]
"""One array for each trainable variable of a model, in the order of `model.trainable_variables`."""


class WeightSampler(keras.callbacks.Callback):
    """A callback of `fit` that samples the weights and averages the samples: base of the others.

    A sample is a copy of all trainable weights, float32 (float64 for weights of that type), on the
    host. Samples are taken after the steps `start + sample_period`, `start + 2 sample_period` and
    so on, counted by the optimizer. One callback is for one training, which may be several calls of
    `fit`. `keras.callbacks.ModelCheckpoint` and `EarlyStopping(restore_best_weights=True)` keep the
    weights of training; `AverageCheckpoint` saves the average.

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
        optimizer: the optimizer that trains the model and counts the steps, if the model has
            several. Default: that of the model.

    Raises:
        ValueError: for an argument outside its range, or batches that can be read only once; when
            `fit` starts, if callbacks would not see the steps of the samples, the model has batch
            normalisation and there are no batches, it is to be synchronised and `LaPerm` does not
            train it, or earlier samples are of another model; at the end of its first epoch, if
            the optimizer has counted no step.
    """

    def __init__(
        self,
        *,
        sample_period: int,
        start: int = 0,
        batches: Iterable[Any] = (),
        synchronise: bool = False,
        in_validation: bool = True,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self.sample_period = check_integer("sample_period", sample_period, at_least=1)
        self.start = check_integer("start", start, at_least=0)
        batch_statistics.check_batches(batches)
        self.batches = batches
        self.synchronise = check_bool("synchronise", synchronise)
        self.in_validation = check_bool("in_validation", in_validation)
        self.optimizer = optimizer
        self.samples = 0
        """How many samples have been taken."""
        self._kept: list[Weights] = []
        self._passed = 0  # sample times up to the last step seen
        self.has_warned = False
        self._first_step: int | None = None  # until it is known that steps are counted

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
        return replaced(self.model, self.average, **self._how())

    def adopt(self) -> None:
        """Put the average into the model for good, with its statistics of batch normalisation."""
        replace(self.model, self.average, **self._how())

    def _how(self) -> dict[str, Any]:
        """How an average is put into the model."""
        chosen = {"synchronise": self.synchronise, "optimizer": self.optimizer}
        return {"batches": self.batches, **chosen}

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
        step = steps_taken(model, self.optimizer)
        self._check_steps(model.steps_per_execution, step)
        if batch_statistics.normalizations(model) and next(iter(self.batches), None) is None:
            raise ValueError(
                f"'{model.name}' has batch normalisation, whose statistics do not fit averaged "
                "weights: pass batches of inputs to re-estimate them with."
            )
        if self.synchronise:
            projecting_of(model, self.optimizer)
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        others = [[array.shape for array in weights] != shapes for weights in self._kept]
        if model.built and any(others):
            raise ValueError("The samples so far are of another model; use a new callback.")
        self._passed, self._first_step = self._passed_at(step), step
        if self.in_validation and not isinstance(model.evaluate, _Evaluate):
            model.evaluate = _Evaluate(model)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Take a sample, if one is due."""
        model = self.model  # on JAX, asking for it gives the model its state back
        step = steps_taken(model, self.optimizer)
        passed = self._passed_at(step)
        if passed == self._passed:
            return
        late = (step - self.start) % self.sample_period
        if passed > self._passed + 1 or (late and not self._may_skip_steps()):
            raise ValueError(
                f"A sample was due before step {step}, but callbacks did not see that step; the "
                f"steps of an epoch are not a multiple of {model.steps_per_execution}."
            )
        self._passed = passed
        self.samples += 1
        self._add(weights_of(model))

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Refuse an optimizer that does not train this model."""
        optimizer = optimizer_of(self.model, self.optimizer)
        waits = any(getattr(o, "gradient_accumulation_steps", None) for o in nested(optimizer))
        step = steps_taken(self.model, self.optimizer)
        if step == self._first_step and not (waits or self._may_skip_steps()):
            raise ValueError(
                f"The optimizer {optimizer.name} has counted no "
                "step in this epoch, so it does not train the model, and nothing can be sampled: "
                "pass the one that does as optimizer=."
            )
        self._first_step = None

    def on_train_end(self, logs: object = None) -> None:
        """Restore the model's own `evaluate`."""
        model = self.model
        if isinstance(model.evaluate, _Evaluate):
            model.evaluate.remove(model)

    def _passed_at(self, step: int) -> int:
        return max(0, (step - self.start) // self.sample_period)

    def _may_skip_steps(self) -> bool:
        """Whether the optimizer may skip a step: a sample is then taken at the next chance."""
        optimizer = optimizer_of(self.model, self.optimizer)
        return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def _check_steps(self, at_once: int, step: int) -> None:
        """Refuse sample times between those at which Keras calls callbacks."""
        for name, value in (("sample_period", self.sample_period), ("start", self.start)):
            if value % at_once:
                raise ValueError(
                    f"{name} must be a multiple of steps_per_execution={at_once}, because "
                    f"callbacks see no steps in between; got {value}."
                )
        steps = self.params["steps"]  # None if Keras does not know
        begins_between = step % at_once and not self._may_skip_steps()
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
        _warn_of_best_weights(samplers[0], of_fit)
        with samplers[0].averaged():
            return self._evaluate(*args, **kwargs)

    def remove(self, model: keras.Model) -> None:
        """Put back what was there: the method of the class, or the model's own function."""
        if self._own is None:
            del model.evaluate
        else:
            model.evaluate = self._own


class AverageCheckpoint(keras.callbacks.ModelCheckpoint):
    """Saves the averaged network at the end of an epoch, where `ModelCheckpoint` saves another.

    In validation `fit` sees the average of a `WeightSampler`, but `ModelCheckpoint(save_best_only)`
    and `EarlyStopping(restore_best_weights=True)` keep the weights of training. This saves what was
    validated; load the file when training ends. Before the first average nothing is saved.

    Args:
        averages: the callback that averages; it comes before this one in the list.
        filepath: as for `keras.callbacks.ModelCheckpoint`, like the other options.
        **options: its other arguments, but `save_freq`: it saves at the end of epochs.

    Raises:
        ValueError: if `save_freq` is given.

    Examples:
        >>> import tempfile
        >>> from laperm_lib.callbacks import SWA
        >>> x, y = np.ones((8, 4)), np.ones((8, 3))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss="mse")
        >>> swa = SWA(sample_period=1)
        >>> path = tempfile.mkdtemp() + "/best.keras"
        >>> best = AverageCheckpoint(swa, path, save_best_only=True)
        >>> history = model.fit(
        ...     x, y, validation_data=(x, y), verbose=0, batch_size=2, callbacks=[swa, best]
        ... )
        >>> kernel = keras.models.load_model(path).get_weights()[0]
        >>> bool((kernel == swa.average[0]).all()), bool((kernel == model.get_weights()[0]).all())
        (True, False)
    """

    def __init__(self, averages: WeightSampler, filepath: Any, **options: Any) -> None:
        if options.get("save_freq", "epoch") != "epoch":
            raise ValueError("AverageCheckpoint saves at the end of epochs: leave out save_freq.")
        super().__init__(filepath, **options)
        self.averages = averages

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save the average, if it is due."""
        if self.averages._average() is not None:
            with self.averages.averaged():
                super().on_epoch_end(epoch, logs)


def _warn_of_best_weights(sampler: WeightSampler, callbacks: Iterable[Any]) -> None:
    """Warn, once, of callbacks that judge by the average and keep the weights of training."""
    found = [
        type(each).__name__
        for each in callbacks
        if getattr(each, "restore_best_weights", False)
        or (getattr(each, "save_best_only", False) and not isinstance(each, AverageCheckpoint))
    ]
    if found and not sampler.has_warned:
        sampler.has_warned = True
        warnings.warn(
            f"Validation sees the average, but {' and '.join(found)} keeps the weights of training:"
            " add laperm_lib.callbacks.AverageCheckpoint(averages, path, save_best_only=True) in "
            "its place, and load its file when training ends; or pass in_validation=False.",
            stacklevel=2,
        )


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
    optimizer: keras.optimizers.Optimizer | None = None,
) -> None:
    """Put other weights into a model for good; all of this or, with an error, nothing.

    `batches` of None leave the statistics of batch normalisation as they are.
    """
    before = weights_of(model)
    try:
        _put(model, weights, projecting_of(model, optimizer) if synchronise else [])
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
    optimizer: keras.optimizers.Optimizer | None = None,
) -> Iterator[None]:
    """`replace` for the length of a `with`; then, bit for bit, everything is as it was."""
    before = weights_of(model)
    try:
        _put(model, weights, projecting_of(model, optimizer) if synchronise else [])
        with batch_statistics.reestimated(model, batches):
            try:
                yield
            finally:
                reattach(model)  # before the old statistics are put back
    finally:
        _assign(model, before)


def _put(
    model: keras.Model, weights: Sequence[np.ndarray], optimizers: Iterable[ProjectingOptimizer]
) -> None:
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    if [array.shape for array in weights] != shapes:
        raise ValueError(f"The weights do not have the shapes of those of '{model.name}'.")
    _assign(model, weights)
    synchronise_all(optimizers)


def _assign(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
