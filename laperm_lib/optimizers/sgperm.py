r"""SGPerm: train by permuting the weights in every step, without another optimizer.

The predecessor of LaPerm. No weight of the permuted variables ever takes a new value. In every
step each place of a weight vector says, by its gradient with momentum, whether it wants a larger
or a smaller weight; the vector is cut at random into parts; and within each part weights are handed
on along cycles of places of which each gets what it wants. The mathematics is in
`laperm_lib.cycles.reference`.

References:
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (versions 1 to 4).
"""

import numbers
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib._arguments import check_integer, check_number
from laperm_lib.cycles.step import CycleSearch, PermutedVariable, check_finite, take_step
from laperm_lib.optimizers.permuting import (
    MOST_STEPS,
    PermutingOptimizer,
    refuse_loss_scaling,
)
from laperm_lib.permutation import matrix_shape
from laperm_lib.weight_vectors import WeightVectors


@keras.saving.register_keras_serializable(package="laperm_lib")
class SGPerm(PermutingOptimizer):
    r"""Trains a network by permuting its initial weights in every step.

    With step t counted from 0, the aggressiveness is :math:`\max(\beta_1^t \alpha_0,
    \alpha_{\min})` and the partition ratio :math:`\min(\beta_2^t \lambda_0, \lambda_{\max})`.
    In a weight vector of d weights between a and b, a place may take a weight that is at most
    :math:`(b - a)(\alpha + 1/n)` away from its own, among the n places of its part,
    :math:`n = \max(10, \lfloor \lambda d \rfloor)`.

    Biases and normalisation parameters, which start as zeros or ones, keep their values unless they
    are permuted too or training is handed over; so does what is excluded. Constraints of layers on
    their weights are not applied, for they would change values.

    The weights are permuted on the CPU, by a host callback. So it trains on one device. The
    TensorFlow step must not be compiled by XLA (`jit_compile=False`, Keras's choice on a CPU), and
    JAX must run on the CPU.

    `capture` measures the ranges of the weights again and forgets the recommendations.

    The default hyperparameters are this project's, found on MNIST; only the momentum and its rate
    are as published. A network of few values needs an `alpha_min` of nearly 1, or nothing can move.

    Args:
        alpha0: aggressiveness in the first step, a share of the range of the weights. Default 0.03.
        alpha_min: the least aggressiveness, 0 to `alpha0`. Default 0.
        beta1: factor on the aggressiveness after each step, above 0 and at most 1. Default 0.998.
        lambda0: partition ratio in the first step, a share of the weight vector. Default 0.03.
        lambda_max: the largest partition ratio, `lambda0` to 1. Default 1.
        beta2: factor on the partition ratio after each step, at least 1. Default 1.001.
        momentum_learning_rate: the factor :math:`\eta` of the gradient in the recommendation
            :math:`m \leftarrow \eta g + \mu m`; a number or a Keras schedule. A constant one
            changes nothing. It is the optimizer's `learning_rate`. Default 0.01.
        momentum: :math:`\mu`, 0 up to below 1. Default 0.9.
        partition_size_min: the least size of a part, at least 2. Default 10.
        seed: for the random parts, an integer of at least 0. Default 0.
        skip_bias: leave biases as they are. Default True.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, as they are. Default True.
        exclude: regular expressions; a variable in whose `path`, such as "sequential/dense/kernel",
            one of them is found is left as it is. Default: none.
        hand_over: None, or (step, optimizer): after that many steps the optimizer, a
            `keras.optimizers.Optimizer` or its name, trains all variables. Default None.
        name: name of the optimizer. Default "sgperm".

    Raises:
        ValueError: for an argument outside of its range.
        ValueError: when training starts, if every variable is skipped or excluded, several devices
            train together, XLA compiles the step on TensorFlow, or JAX runs on an accelerator.
        UnknownLayerError: when training starts, for a layer whose weight vectors are not known.
        NonFiniteWeightError: when training starts, or by `capture`, if a weight is NaN or infinite.
        NonFiniteWeightError: when a gradient holds a NaN or an infinity; no weight is moved then.
            TensorFlow wraps it in its InvalidArgumentError; JAX raises when `fit` ends.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> start = np.sort(keras.ops.convert_to_numpy(model.layers[0].kernel), axis=0)
        >>> model.compile(SGPerm(seed=1), loss="mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
        >>> end = np.sort(keras.ops.convert_to_numpy(model.layers[0].kernel), axis=0)
        >>> bool((start == end).all())
        True

    References:
        Qiu and Suda, arXiv:2003.02570 (versions 1 to 4).
    """

    _refused = (
        *("clipnorm", "clipvalue", "global_clipnorm", "weight_decay", "use_ema"),
        *("gradient_accumulation_steps", "loss_scale_factor"),
    )
    _instead = "it only permutes weights. The optimizer of hand_over may have one."

    def __init__(
        self,
        *,
        alpha0: float = 0.03,
        alpha_min: float = 0.0,
        beta1: float = 0.998,
        lambda0: float = 0.03,
        lambda_max: float = 1.0,
        beta2: float = 1.001,
        momentum_learning_rate: Any = 0.01,
        momentum: float = 0.9,
        partition_size_min: int = 10,
        seed: int = 0,
        skip_bias: bool = True,
        skip_batch_norm: bool = True,
        exclude: Iterable[str] = (),
        hand_over: tuple[int, keras.optimizers.Optimizer | str] | None = None,
        name: str = "sgperm",
    ) -> None:
        if isinstance(momentum_learning_rate, numbers.Real):
            momentum_learning_rate = check_number(
                "momentum_learning_rate", momentum_learning_rate, above=0
            )
        super().__init__(
            learning_rate=momentum_learning_rate,
            skip_bias=skip_bias,
            skip_batch_norm=skip_batch_norm,
            exclude=exclude,
            name=name,
        )
        self.search = CycleSearch(
            alpha0=alpha0,
            alpha_min=alpha_min,
            beta1=beta1,
            lambda0=lambda0,
            lambda_max=lambda_max,
            beta2=beta2,
            momentum=momentum,
            partition_size_min=partition_size_min,
            seed=seed,
        )
        self.hand_over_step, self.successor = _checked_hand_over(hand_over)

    # -- the algorithm --------------------------------------------------------------------------

    def _take_step(self, grads: list[Any], variables: list[Any]) -> None:
        """Permute the weights once, or take a step of the optimizer handed over to."""
        self._check_variables_are_known(variables)
        if self.successor is None:
            self._permute(grads, variables)
        else:
            backend.cond(
                ops.convert_to_tensor(self._iterations) < self.hand_over_step,
                lambda: self._permute(grads, variables),
                lambda: self.successor.apply(grads, variables),
                assigned=[*variables, *self.variables],
            )
        self._iterations.assign_add(1)

    def _permute(self, grads: list[Any], variables: list[Any]) -> None:
        by_variable = {id(v): g for v, g in zip(variables, grads, strict=True) if g is not None}
        entries = [entry for entry in self._permuted if id(entry.variable) in by_variable]
        take_step(
            entries,
            [by_variable[id(entry.variable)] for entry in entries],
            self.search,
            step=ops.convert_to_tensor(self._iterations),
            rate=ops.convert_to_tensor(self.learning_rate),
        )

    def finalize_variable_values(self, var_list: Any) -> None:
        """End as the optimizer handed over to does (Keras calls this when `fit` ends)."""
        # Keras calls this also when a step has failed: do not hide that error behind another.
        if not self.built or not backend.have_values([*var_list, *self.variables]):
            return
        if not self._is_captured:
            self._check_initial()
        wishes = [ops.convert_to_numpy(entry.recommendation) for entry in self._permuted]
        check_finite(self._permuted, wishes)
        steps = int(ops.convert_to_numpy(self._iterations))
        if self.successor is not None and steps > self.hand_over_step:
            self.successor.finalize_variable_values(var_list)

    # -- the state --------------------------------------------------------------------------------

    def _create_state(self, variables: list[Any], chosen: list[WeightVectors]) -> None:
        backend.check_one_cpu_device("SGPerm")
        self._permuted = []
        for number, v in enumerate(chosen):
            shape = tuple(v.variable.shape)
            neurons, _ = matrix_shape(shape, v.neuron_axes)
            recommendation = self._add_state(v, "recommendation", shape, "float32")
            spread = self._add_state(v, "spread", (neurons,), "float32")
            self._permuted.append(
                PermutedVariable(number, v.variable, recommendation, spread, v.neuron_axes)
            )
        self._starts = [entry.spread for entry in self._permuted]
        if self.successor is not None and not self.successor.built:
            self.successor.build(variables)

    def _initial(self, matrix: np.ndarray) -> np.ndarray:
        """The range of each weight vector, float32, shape (neurons,)."""
        matrix = matrix.astype(np.float32)
        return matrix.max(axis=1) - matrix.min(axis=1)

    def _initial_in_graph(self, matrix: Any) -> Any:
        matrix = ops.cast(matrix, "float32")
        return ops.max(matrix, axis=1) - ops.min(matrix, axis=1)

    def _begin(self) -> None:
        """Forget the recommendations."""
        for entry in self._permuted:
            entry.recommendation.assign(ops.zeros(entry.recommendation.shape))

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """An AttributeError: SGPerm has no weight decay."""
        raise AttributeError(f"SGPerm has no weight decay: {self._instead}")

    def _otherwise(self) -> str:
        return "kept" if self.successor is None else f"kept, then left to {self.successor.name}"

    @property
    def variables(self) -> list[Any]:
        """Own variables, then those of the optimizer handed over to."""
        successors = [] if self.successor is None else self.successor.variables
        return self._variables + successors

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialisable; a schedule must be a registered Keras object."""
        hand_over = None
        if self.successor is not None:
            successor = keras.saving.serialize_keras_object(self.successor)
            hand_over = [self.hand_over_step, successor]
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        else:
            rate = float(ops.convert_to_numpy(self.learning_rate))
        return {
            **super().get_config(),
            **asdict(self.search),
            "momentum_learning_rate": rate,
            "hand_over": hand_over,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SGPerm":
        """Undo `get_config`."""

        def restored(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = dict(config)
        config["momentum_learning_rate"] = restored(config["momentum_learning_rate"])
        if config["hand_over"] is not None:
            step, successor = config["hand_over"]
            config["hand_over"] = (step, restored(successor))
        return cls(**config)


def _checked_hand_over(hand_over: Any) -> tuple[int, Any]:
    """The step and the optimizer, or (0, None)."""
    if hand_over is None:
        return 0, None
    try:
        step, successor = hand_over
    except (TypeError, ValueError):
        raise ValueError(f"hand_over is (step, optimizer), got {hand_over!r}.") from None
    if check_integer("The step of hand_over", step, at_least=1) > MOST_STEPS:
        raise ValueError(f"The step of hand_over is at most {MOST_STEPS}, got {step}.")
    successor = keras.optimizers.get(successor)
    if not isinstance(successor, keras.optimizers.Optimizer):
        raise ValueError(f"hand_over is (step, optimizer), got {hand_over!r}.")
    refuse_loss_scaling(successor, "The optimizer handed over to", around="SGPerm")
    return int(step), successor
