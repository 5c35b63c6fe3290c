r"""One device program: whole blocks of training steps in a single call, several runs side by side.

Keras's `fit` goes through Python at every step, which takes longer than a small network needs on
a large device. Here, with the JAX backend, data and augmentation live on the device, and all the
steps up to the next synchronisation are one compiled loop that ends with it:

.. math:: \text{repeat } n \text{ times: } (w, s) \leftarrow \operatorname{step}(w, s,
          x[o_i], y[o_i]); \qquad w[\operatorname{argsort}(w)] \leftarrow \operatorname{sort}(w_0).

One small network does not fill such a device either. Runs that differ in seed, pruning or sync
period are therefore trained side by side, as one program vectorised over runs. The order of images
and their augmentation are those of `laperm_lib.batches.Batches`, so a run gives what `fit` gives
for it, but for the rounding of another order of summation.

References:
    Qiu and Suda, NeurIPS 2020, algorithm 1.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from laperm_lib.arguments import check_integer
from laperm_lib.augmentation import Augmentation
from laperm_lib.batches import epoch_order
from laperm_lib.device_block import block_of_steps, computation, count_correct, step_on_samples
from laperm_lib.initializers import check_seed
from laperm_lib.optimizers.laperm import LaPerm
from laperm_lib.training_state import nested

_EVALUATION_BATCH = 1000


class DeviceProgram:
    """Trains compiled Keras models of one architecture side by side on one device.

    It takes the models' present state as its own. The models are left as they are until
    `write_back`.

    Args:
        models: one per run, each compiled with a loss and an optimizer, `LaPerm` or one of Keras's
            that neither scales the loss nor accumulates gradients. The runs compute the same, with
            weights and random states of their own; the optimizers are alike but for the sync
            period.
        x: training images, shape (n, height, width, channels), float32.
        y: targets, shape (n, ...).
        batch_size: images per step; the last batch of an epoch holds what is left.
        seeds: one per run, for the order of images and their augmentation.
        augmentation: how images are distorted. Default: not at all.
        first_step: training steps that the models have taken already. Default 0.

    Raises:
        ValueError: if the backend is not JAX, there are no models, they or their optimizers do not
            match, or an optimizer scales the loss or accumulates gradients.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        x: np.ndarray,
        y: np.ndarray,
        *,
        batch_size: int,
        seeds: Sequence[int],
        augmentation: Augmentation | None = None,
        first_step: int = 0,
    ) -> None:
        _check(models, seeds, x[:batch_size], y[:batch_size])
        import jax

        self.step = first_step
        self._models, self._seeds = list(models), [check_seed(seed) for seed in seeds]
        self._augmentation, self._batch_size = augmentation, batch_size
        self._count, self._shape = len(x), x.shape[1:]
        self._x, self._y = jax.device_put(x), jax.device_put(y)
        self._several = len(models) > 1
        for model in models:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
        self._state = self._gather(_variables)
        self._initial = self._gather(_sorted_initial)
        self._last_sync = [_last_sync(model.optimizer) for model in models]
        self._block = jax.jit(
            block_of_steps(models[0], self._several), static_argnames="size", donate_argnums=0
        )
        self._correct = jax.jit(count_correct(models[0], self._several))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="laperm-epoch")
        self._prepared: dict[int, Future[Any]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """How many batches go through the data once."""
        return -(-self._count // self._batch_size)

    def advance(self, steps: int) -> np.ndarray:
        """Train all runs for a number of steps.

        Args:
            steps: how many, at least 0.

        Returns:
            The mean loss over these steps, one number per run, shape (runs,); 0 for no steps.

        Raises:
            ValueError: if `steps` is not an integer of at least 0.
        """
        end = self.step + check_integer("steps", steps, at_least=0)
        next_sync = [
            _next_sync(model.optimizer, last, self.step, end)
            for model, last in zip(self._models, self._last_sync, strict=True)
        ]
        losses = [np.zeros(len(self._models))]
        while self.step < end:
            epoch, batch = divmod(self.step, self.steps_per_epoch)
            whole = self._count // self._batch_size
            if batch < whole:
                size, most = self._batch_size, whole - batch
            else:  # what is left of an epoch makes a smaller batch
                size, most = self._count % self._batch_size, 1
            count = int(min(end - self.step, most, *(at - self.step for at in next_sync)))
            due = [at == self.step + count for at in next_sync]
            self._state, loss = self._block(
                self._state,
                self._initial,
                self._x,
                self._y,
                self._epoch(epoch),
                batch * self._batch_size,
                count,
                np.array(due if self._several else due[0]),
                size=size,
            )
            losses.append(loss)
            self.step += count
            for run, model in enumerate(self._models):
                if due[run]:
                    self._last_sync[run] = self.step
                    next_sync[run] = _next_sync(model.optimizer, self.step, self.step, end)
        return np.sum([np.atleast_1d(loss) for loss in losses], axis=0) / max(1, steps)

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The share of images whose largest output is that of their class.

        Args:
            x: images, shape (n, height, width, channels).
            y: classes, integers of shape (n,).

        Returns:
            A number from 0 to 1 per run, shape (runs,).
        """
        parts = [
            self._correct(self._state, x[first:][:_EVALUATION_BATCH], y[first:][:_EVALUATION_BATCH])
            for first in range(0, len(x), _EVALUATION_BATCH)
        ]
        return np.sum([np.atleast_1d(part) for part in parts], axis=0) / len(x)

    def flops_per_step(self) -> float:
        """Floating-point operations of one step of all runs together, as XLA counts them."""
        import jax

        chosen = np.arange(self._batch_size)
        step = jax.jit(step_on_samples(self._models[0], self._several))
        lowered = step.lower(self._state, self._x, self._y, *self._epoch(0), chosen)
        return float(lowered.compile().cost_analysis()["flops"])

    def write_back(self) -> None:
        """Bring the models and their optimizers into the state that training has reached."""
        for run, model in enumerate(self._models):
            for variables, values in zip(_variables(model), self._state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(np.asarray(value[run] if self._several else value))
            if isinstance(model.optimizer, LaPerm):
                model.optimizer.last_sync = self._last_sync[run]

    def _gather(self, variables_of: Callable[[keras.Model], Any]) -> Any:
        """The values of each model's variables; those of several runs stacked on a first axis."""
        import jax
        import jax.numpy as jnp

        values = [
            jax.tree.map(keras.ops.convert_to_numpy, variables_of(model)) for model in self._models
        ]
        if not self._several:
            return jax.tree.map(jnp.array, values[0])
        return jax.tree.map(lambda *runs: jnp.stack(runs), *values)

    def _epoch(self, epoch: int) -> Any:
        """Order and transforms of an epoch, on the device; the next one's are made meanwhile."""
        for number in (epoch, epoch + 1):
            if number not in self._prepared:
                self._prepared[number] = self._thread.submit(self._prepare, number)
        self._prepared = {n: made for n, made in self._prepared.items() if n >= epoch}
        return self._prepared[epoch].result()

    def _prepare(self, epoch: int) -> Any:
        import jax

        orders = [epoch_order(self._count, seed=seed, epoch=epoch) for seed in self._seeds]
        transforms = None
        if self._augmentation is not None:
            transforms = [
                self._augmentation.transforms(self._count, self._shape, seed=seed, epoch=epoch)
                for seed in self._seeds
            ]
        made = [np.array(orders, np.int32), None if transforms is None else np.array(transforms)]
        if not self._several:
            made = [None if array is None else array[0] for array in made]
        return jax.device_put(made)


def _variables(model: keras.Model) -> tuple[list[Any], list[Any], list[Any]]:
    """What changes in a step: trainable variables, the others, those of the inner optimizer."""
    optimizer = model.optimizer
    inner = optimizer.inner_optimizer if isinstance(optimizer, LaPerm) else optimizer
    return model.trainable_variables, model.non_trainable_variables, inner.variables


def _sorted_initial(model: keras.Model) -> list[Any]:
    """The sorted initial values of the variables that are permuted."""
    optimizer = model.optimizer
    if not isinstance(optimizer, LaPerm):
        return []
    return [entry.sorted_initial for entry in optimizer.permuted]


def _last_sync(optimizer: keras.optimizers.Optimizer) -> int:
    return optimizer.last_sync if isinstance(optimizer, LaPerm) else 0


def _next_sync(optimizer: keras.optimizers.Optimizer, last_sync: int, step: int, end: int) -> float:
    """The first step behind `step` that ends with a synchronisation, as `LaPerm.apply` has it.

    A schedule is asked step by step, and no further than to `end`; infinity if none comes by then.
    """
    if not isinstance(optimizer, LaPerm):
        return np.inf
    period = optimizer.sync_period
    if not callable(period):
        return max(step + 1, last_sync + period)
    for candidate in range(step + 1, end + 1):
        if candidate - last_sync >= float(keras.ops.convert_to_numpy(period(candidate))):
            return candidate
    return np.inf


def _check(models: Sequence[keras.Model], seeds: Sequence[int], x: Any, y: Any) -> None:
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"A device program needs JAX: set KERAS_BACKEND=jax (it is {keras.backend.backend()})."
        )
    if not models or len(models) != len(seeds):
        raise ValueError(f"{len(models)} models and {len(seeds)} seeds make no runs.")
    for model in models:
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"'{model.name}' is not compiled.")
        _check_steps_plainly(model.optimizer)
    # One run alone has nothing to be like, and need not be traced for it.
    if len(models) > 1 and len({_likeness(model, x, y) for model in models}) > 1:
        raise ValueError(
            "Runs side by side have one architecture, loss, constraints and optimizer; they may "
            "differ in weights, seed and sync period only."
        )


def _check_steps_plainly(outer: keras.optimizers.Optimizer) -> None:
    """Refuse an optimizer, or one inside of it, for which a batch is not a step."""
    for optimizer in nested(outer):
        name = type(optimizer).__name__
        is_wrapper = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if is_wrapper or optimizer.loss_scale_factor is not None:
            raise ValueError(
                f"{name} scales the loss, which a device program does not; with mixed_bfloat16 "
                "there is no need to."
            )
        if optimizer.gradient_accumulation_steps:
            raise ValueError(f"{name} accumulates gradients, which a device program does not.")


def _likeness(model: keras.Model, x: Any, y: Any) -> str:
    """What runs side by side must have in common, as text."""
    optimizer = _without_names(model.optimizer.get_config())
    optimizer.pop("sync_period", None)
    variables = [
        [(tuple(v.shape), str(v.dtype)) for v in part]
        for part in (model.trainable_variables, model.non_trainable_variables)
    ]
    kind = type(model.optimizer).__name__
    return repr((kind, optimizer, variables, computation(model, x, y)))


def _without_names(config: Any) -> Any:
    """A configuration without the names, which Keras numbers through the process."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return config
