"""Runs that one call trains: their state on the device, their epochs, when they synchronise.

`laperm_lib.device_program.DeviceProgram` has one lane with all its runs, or a lane for each.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from laperm_lib.augmentation import Augmentation
from laperm_lib.batches import epoch_order
from laperm_lib.device_block import block_of_steps, count_correct, step_on_samples
from laperm_lib.optimizers.laperm import LaPerm

_EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Samples:
    """What all runs are trained on.

    Args:
        x: images, shape (n, height, width, channels), on the device.
        y: targets, shape (n, ...), on the device.
        batch_size: images per step; the last batch of an epoch holds what is left.
        augmentation: how images are distorted; None: not at all.
    """

    x: Any
    y: Any
    batch_size: int
    augmentation: Augmentation | None

    @property
    def steps_per_epoch(self) -> int:
        """How many batches go through the data once."""
        return -(-len(self.x) // self.batch_size)


@dataclass(frozen=True)
class Compiled:
    """The functions that all lanes of a program share, so that they are compiled once.

    Args:
        block: see `laperm_lib.device_block.block_of_steps`.
        correct: see `laperm_lib.device_block.count_correct`.
        looped: whether all steps up to the next synchronisation are one call, or each is a call.
    """

    block: Callable[..., Any]
    correct: Callable[..., Any]
    looped: bool

    @classmethod
    def of(cls, model: keras.Model, several: bool, *, looped: bool) -> "Compiled":
        """For lanes with one run, or `several`, whose models are like this one."""
        import jax

        block = block_of_steps(model, several, looped=looped)
        return cls(
            jax.jit(block, static_argnames="size", donate_argnums=0),
            jax.jit(count_correct(model, several)),
            looped,
        )


class Lane:
    """One or several runs as one computation.

    It takes the models' present state as its own. They are left as they are until `write_back`.

    Args:
        models: one per run, compiled and their optimizers built. With several the computation is
            vectorised over them.
        seeds: one per run, for the order of images and their augmentation.
        samples: what they are trained on.
        compiled: for as many runs.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        seeds: Sequence[int],
        samples: Samples,
        compiled: Compiled,
    ) -> None:
        self._models, self._seeds, self._samples = list(models), list(seeds), samples
        self._compiled, self._several = compiled, len(models) > 1
        self._state = self._gather(_variables)
        self._initial = self._gather(_sorted_initial)
        self._last_sync = [_last_sync(model.optimizer) for model in models]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="laperm-epoch")
        self._prepared: dict[int, Future[Any]] = {}

    def advance(self, step: int, end: int) -> np.ndarray:
        """Train from one step to another.

        Args:
            step: training steps taken so far.
            end: those to have been taken then.

        Returns:
            The sum of the losses of these steps, one number per run, shape (runs,).
        """
        samples, size = self._samples, self._samples.batch_size
        whole, rest = divmod(len(samples.x), size)
        next_sync = [
            next_synchronisation(model.optimizer, last, step, end)
            for model, last in zip(self._models, self._last_sync, strict=True)
        ]
        losses: list[Any] = [np.zeros(len(self._models))]
        while step < end:
            epoch, batch = divmod(step, samples.steps_per_epoch)
            # What is left of an epoch makes a smaller batch.
            in_batch, most = (size, whole - batch) if batch < whole else (rest, 1)
            until = min(end - step, most, *(at - step for at in next_sync))
            count = int(until) if self._compiled.looped else 1
            due = [at == step + count for at in next_sync]
            self._state, loss = self._compiled.block(
                self._state,
                self._initial,
                samples.x,
                samples.y,
                self._epoch(epoch),
                batch * size,
                count,
                np.array(due if self._several else due[0]),
                size=in_batch,
            )
            losses.append(loss)
            step += count
            for run, model in enumerate(self._models):
                if due[run]:
                    self._last_sync[run] = step
                    next_sync[run] = next_synchronisation(model.optimizer, step, step, end)
        return np.asarray(np.sum([np.atleast_1d(loss) for loss in losses], axis=0))

    def count_correct(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How many images have their largest output at their class, per run, shape (runs,)."""
        parts = [
            self._compiled.correct(
                self._state, x[first:][:_EVALUATION_BATCH], y[first:][:_EVALUATION_BATCH]
            )
            for first in range(0, len(x), _EVALUATION_BATCH)
        ]
        return np.asarray(np.sum([np.atleast_1d(part) for part in parts], axis=0))

    def flops_per_step(self) -> float:
        """Floating-point operations of one step of these runs together, as XLA counts them."""
        import jax

        samples = self._samples
        step = jax.jit(step_on_samples(self._models[0], self._several))
        chosen = np.arange(samples.batch_size)
        lowered = step.lower(self._state, samples.x, samples.y, *self._epoch(0), chosen)
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

        count, shape = len(self._samples.x), self._samples.x.shape[1:]
        augmentation = self._samples.augmentation
        orders = [epoch_order(count, seed=seed, epoch=epoch) for seed in self._seeds]
        transforms = None
        if augmentation is not None:
            transforms = [
                augmentation.transforms(count, shape, seed=seed, epoch=epoch)
                for seed in self._seeds
            ]
        made = [np.array(orders, np.int32), None if transforms is None else np.array(transforms)]
        if not self._several:
            made = [None if array is None else array[0] for array in made]
        return jax.device_put(made)


def next_synchronisation(
    optimizer: keras.optimizers.Optimizer, last_sync: int, step: int, end: int
) -> float:
    """The first step behind `step` that ends with a synchronisation, as `LaPerm.apply` has it.

    Args:
        optimizer: `LaPerm` or another.
        last_sync: the step of the last synchronisation, 0 before the first.
        step: training steps taken so far.
        end: how far a schedule is asked, step by step.

    Returns:
        That step; infinity if none comes, or with a schedule none up to `end`.
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
