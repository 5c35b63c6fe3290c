r"""One device program: whole blocks of training steps in a single call, several runs side by side.

Keras's `fit` goes through Python at every step, which takes longer than a small network needs on
a large device. Here, with the JAX backend, data and augmentation live on the device, and all the
steps up to the next synchronisation are one compiled loop that ends with it:

.. math:: \text{repeat } n \text{ times: } (w, s) \leftarrow \operatorname{step}(w, s,
          x[o_i], y[o_i]); \qquad w[\operatorname{argsort}(w)] \leftarrow \operatorname{sort}(w_0).

One small network does not fill such a device either. Runs that differ in seed, pruning or sync
period are therefore trained side by side, as one computation vectorised over runs. The order of
images and their augmentation are those of `laperm_lib.batches.Batches`, so a run gives what `fit`
gives for it, but for the rounding of another order of summation.

On a CPU it is the other way round: XLA leaves convolutions that are vectorised over kernels, or in
a loop, to code many times slower (https://github.com/jax-ml/jax/issues/12868). There each run goes
by itself, and each step is a call.

References:
    Qiu and Suda, NeurIPS 2020, algorithm 1.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from laperm_lib.arguments import check_integer
from laperm_lib.augmentation import Augmentation
from laperm_lib.device_block import computation
from laperm_lib.device_lane import Compiled, Lane, Samples
from laperm_lib.initializers import check_seed
from laperm_lib.training_state import nested


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
        vectorised: whether all runs are one computation, or each its own, one after the other.
            Default: the former on an accelerator, the latter on a CPU.

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
        vectorised: bool | None = None,
    ) -> None:
        _check(models, seeds, x[:batch_size], y[:batch_size])
        import jax

        self.step = first_step
        self._samples = Samples(jax.device_put(x), jax.device_put(y), batch_size, augmentation)
        seeds = [check_seed(seed) for seed in seeds]
        for model in models:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
        on_cpu = jax.default_backend() == "cpu"
        if vectorised is None:
            vectorised = not on_cpu
        in_lane = len(models) if vectorised else 1
        compiled = Compiled.of(models[0], in_lane > 1, looped=vectorised or not on_cpu)
        self._lanes = [
            Lane(models[run:][:in_lane], seeds[run:][:in_lane], self._samples, compiled)
            for run in range(0, len(models), in_lane)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """How many batches go through the data once."""
        return self._samples.steps_per_epoch

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
        losses = np.concatenate([lane.advance(self.step, end) for lane in self._lanes])
        self.step = end
        return losses / max(1, steps)

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The share of images whose largest output is that of their class.

        Args:
            x: images, shape (n, height, width, channels).
            y: classes, integers of shape (n,).

        Returns:
            A number from 0 to 1 per run, shape (runs,).
        """
        return np.concatenate([lane.count_correct(x, y) for lane in self._lanes]) / len(x)

    def flops_per_step(self) -> float:
        """Floating-point operations of one step of all runs together, as XLA counts them."""
        return sum(lane.flops_per_step() for lane in self._lanes)

    def write_back(self) -> None:
        """Bring the models and their optimizers into the state that training has reached."""
        for lane in self._lanes:
            lane.write_back()


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
