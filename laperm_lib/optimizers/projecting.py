"""What LaPerm, SignFlip and Switch share: train freely for k steps, then project.

An inner optimizer updates the weights freely. After every k steps, the sync period, each weight
vector is replaced by the nearest one of a set that its initial values make. Each optimizer is such
a set; how weights are projected onto it is in `laperm_lib.synchronisation.projections`.
"""

import numbers
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib._arguments import check_bool
from laperm_lib.optimizers.permuting import (
    MOST_STEPS,
    PermutingOptimizer,
    nested,
    optimizer_of,
    refuse_loss_scaling,
)
from laperm_lib.permutation import matrix_shape, to_matrix
from laperm_lib.synchronisation.projections import Projection
from laperm_lib.synchronisation.step import ProjectedVariable, synchronise, synchronise_when
from laperm_lib.weight_vectors import WeightVectors

SyncPeriod = int | Callable[[Any], Any]


def _of_inner(name: str) -> property:
    def get(self: "ProjectingOptimizer") -> Any:
        return getattr(self.inner_optimizer, name)

    def set_value(self: "ProjectingOptimizer", value: Any) -> None:
        if "inner_optimizer" in vars(self):  # Keras sets its defaults before
            setattr(self.inner_optimizer, name, value)

    return property(get, set_value, doc=f"The inner optimizer's {name}.")


class ProjectingOptimizer(PermutingOptimizer):
    """The base of `LaPerm`, `SignFlip` and `Switch`, whose docstrings explain the arguments."""

    projection: Projection
    default_name: str
    _refused = ("use_ema", "gradient_accumulation_steps", "loss_scale_factor")
    _instead = "give it to the inner optimizer when you make that one, or scale around this one."

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        sync_period: SyncPeriod = 10,
        *,
        skip_bias: bool = True,
        skip_batch_norm: bool = True,
        exclude: Iterable[str] = (),
        latent_weights: bool = False,
        name: str | None = None,
    ) -> None:
        inner_optimizer = _checked_inner_optimizer(inner_optimizer, type(self).__name__)
        latent_weights = check_bool("latent_weights", latent_weights)
        _check_sync_period(sync_period)
        super().__init__(
            learning_rate=0.0,  # the inner optimizer's is the one used
            skip_bias=skip_bias,
            skip_batch_norm=skip_batch_norm,
            exclude=exclude,
            name=name or self.default_name,
        )
        self.inner_optimizer = inner_optimizer
        self._sync_period = sync_period if callable(sync_period) else int(sync_period)
        self.latent_weights = latent_weights

    # -- the algorithm --------------------------------------------------------------------------

    def _take_step(self, grads: list[Any], variables: list[Any]) -> None:
        """Take a step of the inner optimizer, and synchronise if the sync period is over."""
        images = [ops.copy(entry.variable) for entry, _ in self._latent]
        for (entry, residual), image in zip(self._latent, images, strict=True):
            entry.variable.assign(image + residual)

        self.inner_optimizer.apply(grads, variables)

        step = ops.convert_to_tensor(self.iterations)
        last_sync = ops.convert_to_tensor(self._last_sync)
        period = self.sync_period(step) if callable(self.sync_period) else self.sync_period
        due = ops.cast(step - last_sync, "float32") >= ops.cast(period, "float32")
        due = ops.logical_and(due, ops.all(ops.equal(self._captured, 1)))
        weights = [ops.copy(entry.variable) for entry, _ in self._latent]
        synchronise_when(due, self._permuted)
        self._last_sync.assign(ops.where(due, step, last_sync))

        for (entry, residual), image, latent in zip(self._latent, images, weights, strict=True):
            image = ops.where(due, ops.convert_to_tensor(entry.variable), image)
            residual.assign(latent - image)
            entry.variable.assign(image)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Synchronise at the end of training (Keras calls this when `fit` ends)."""
        self.inner_optimizer.finalize_variable_values(var_list)
        # Keras calls this also when a step has failed: do not hide that error behind another.
        if not self.built or not backend.have_values([*var_list, *self.variables]):
            return
        if self._is_captured:
            self.synchronise()
        else:  # by no step, or by none that could raise for what is not finite
            self._check_initial()

    def synchronise(self) -> None:
        """Synchronise now, outside of a training step; the sync period runs on undisturbed.

        Raises:
            ValueError: if nothing has been captured yet.
            NonFiniteWeightError: if a weight is NaN or infinite; no weight is changed then.
        """
        self._require_captured()
        synchronise(self._permuted)

    # -- the initial values -----------------------------------------------------------------------

    def _create_state(self, variables: list[Any], chosen: list[WeightVectors]) -> None:
        self._permuted = []
        for v in chosen:
            shape = matrix_shape(tuple(v.variable.shape), v.neuron_axes)
            kept = self._add_state(v, self.projection.variable_name, shape, v.variable.dtype)
            entry = ProjectedVariable(v.variable, kept, v.neuron_axes, self.projection)
            self._permuted.append(entry)
        self._starts = [entry.kept for entry in self._permuted]
        # Latent weights as their distance from the image: that is 0 at the start, whenever that is,
        # and weights that a callback assigns move the latent ones as far.
        self._latent = []
        for v, entry in zip(chosen, self._permuted, strict=True) if self.latent_weights else ():
            shape, dtype = v.variable.shape, v.variable.dtype
            self._latent.append((entry, self._add_state(v, "residual", shape, dtype)))
        self._last_sync = self.add_variable(shape=(), dtype="int", name="last_sync")
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        self._begin()

    @property
    def _in_words(self) -> str:  # type: ignore[override]
        return self.projection.in_words

    @property
    def _stuck_if(self) -> str:  # type: ignore[override]
        return self.projection.stuck_if

    def _are_stuck(self, matrix: np.ndarray) -> np.ndarray:
        return self.projection.are_stuck(matrix)

    def _initial(self, matrix: np.ndarray) -> np.ndarray:
        return self.projection.keep(matrix)

    def _initial_in_graph(self, matrix: Any) -> Any:
        return self.projection.keep_in_graph(matrix)

    def _begin(self) -> None:
        """Begin a sync period; the inner optimizer may have taken steps without LaPerm."""
        # A number of its own: JAX cannot train with two variables that share one buffer.
        self._last_sync.assign(int(ops.convert_to_numpy(self.iterations)))

    def is_projected(self) -> bool:
        """Whether every weight vector is now in the set of its initial values, bit for bit.

        True after each synchronisation; False as a rule between two, unless weights are latent.

        Raises:
            ValueError: before the initial values are captured.
        """
        self._require_captured()
        return all(
            entry.projection.contains(
                to_matrix(ops.convert_to_numpy(entry.variable), entry.neuron_axes),
                ops.convert_to_numpy(entry.kept),
            )
            for entry in self._permuted
        )

    def _otherwise(self) -> str:
        return f"left to {self.inner_optimizer.name}"

    def _image(self, entry: ProjectedVariable, matrix: np.ndarray) -> np.ndarray:
        if not self._is_captured:
            return matrix
        return self.projection.nearest(matrix, ops.convert_to_numpy(entry.kept))

    def _steps_in_words(self) -> str:
        if not self._is_captured:
            return "The initial values are taken at the next step."
        since = int(ops.convert_to_numpy(self.iterations)) - self.last_sync
        return f"{super()._steps_in_words()}, {since} since the last regular synchronisation"

    @property
    def sync_period(self) -> SyncPeriod:
        """The steps between synchronisations, or a schedule; compiled into the training step."""
        return self._sync_period

    @sync_period.setter
    def sync_period(self, period: SyncPeriod) -> None:
        raise AttributeError(
            "The sync period is compiled into the training step and cannot be assigned: make "
            f"{type(self).__name__} with a schedule of it, a function of the step."
        )

    @property
    def last_sync(self) -> int:
        """The step of the last synchronisation; before the first, that of the initial weights."""
        self._require_captured()
        return int(ops.convert_to_numpy(self._last_sync))

    # -- everything else is the inner optimizer's ------------------------------------------------

    @property
    def variables(self) -> list[Any]:
        """Own variables, then the inner optimizer's."""
        return self._variables + self.inner_optimizer.variables

    @property
    def iterations(self) -> Any:
        """The inner optimizer's step count."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    clipnorm = _of_inner("clipnorm")
    clipvalue = _of_inner("clipvalue")
    global_clipnorm = _of_inner("global_clipnorm")
    weight_decay = _of_inner("weight_decay")
    ema_momentum = _of_inner("ema_momentum")
    ema_overwrite_frequency = _of_inner("ema_overwrite_frequency")

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Exclude variables from the inner optimizer's weight decay, before it is built."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialisable; a schedule must be a registered Keras object."""
        period = self.sync_period
        if callable(period):
            period = keras.saving.serialize_keras_object(period)
        return {
            **super().get_config(),
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "sync_period": period,
            "latent_weights": self.latent_weights,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Undo `get_config`."""
        config = dict(config)
        for key in ("inner_optimizer", "sync_period"):
            if isinstance(config[key], dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return cls(**config)


def projecting_of(model: keras.Model, optimizer: Any = None) -> list[ProjectingOptimizer]:
    """All that train a model, perhaps inside loss scaling or a `MultiOptimizer`."""
    outer = optimizer_of(model, optimizer)
    found = [each for each in nested(outer) if isinstance(each, ProjectingOptimizer)]
    if not found:
        raise ValueError(
            f"Only a model that LaPerm trains can be synchronised; the optimizer of '{model.name}' "
            f"is {getattr(outer, 'name', 'none')}. If it has others, pass optimizer=."
        )
    return found


def synchronise_all(optimizers: Iterable[ProjectingOptimizer]) -> None:
    """Synchronise those that are built: `MultiOptimizer` builds only those with variables."""
    for each in optimizers:
        if each.built:
            each.synchronise()


def _checked_inner_optimizer(given: Any, around: str) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.get(given) if given is not None else None
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"inner_optimizer is an optimizer of Keras or its name, got {given!r}.")
    if isinstance(optimizer, PermutingOptimizer):
        raise ValueError(f"{around} cannot wrap {type(optimizer).__name__}, which permutes too.")
    refuse_loss_scaling(optimizer, "The inner optimizer", around=around)
    return optimizer


def _check_sync_period(period: SyncPeriod) -> None:
    """A positive int, or a schedule whose value at step 1 is a number of at least 1."""
    if callable(period):
        value = ops.convert_to_numpy(period(ops.convert_to_tensor(1)))
        if np.ndim(value) != 0 or not np.isfinite(value) or value < 1:
            raise ValueError(f"The sync_period schedule gives {value} at step 1, not a period.")
    elif isinstance(period, bool) or not isinstance(period, numbers.Integral) or period < 1:
        raise ValueError(f"sync_period is a positive int or a schedule, got {period!r}.")
    elif period > MOST_STEPS:
        raise ValueError(f"sync_period is at most {MOST_STEPS}, got {period!r}.")
