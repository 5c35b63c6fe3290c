r"""SGPerm: train by rearranging the weights in every step, without another optimizer.

The predecessor of LaPerm. No weight of the permuted variables ever takes a new value. In every
step each place of a weight vector says, by its gradient with momentum, whether it wants a larger
or a smaller weight; the vector is cut at random into parts; and within each part weights are handed
on along cycles of places of which each gets what it wants. `laperm_lib.cycles` is the mathematics.

References:
    Qiu and Suda, "Permute to Train: A New Dimension to Training Deep Neural Networks", 2020,
    arXiv:2003.02570 (versions 1 to 4).
"""

import logging
import numbers
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import backend, compiled_cycles, host, weight_vectors
from laperm_lib.arguments import check_integer, check_number, check_patterns
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import to_matrix
from laperm_lib.rearrangement import Rearrangement
from laperm_lib.weight_vectors import WeightVectors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Permuted:
    """A variable whose weights are rearranged, and what is kept for it.

    Args:
        number: which of them it is, from 0: it has random parts of its own.
        variable: the model's variable.
        recommendation: what its places want: a float32 variable of the same shape.
        spread: max - min of each of its initial weight vectors: a variable of shape (neurons,).
        neuron_axes: the axes of `variable` that run over neurons.
    """

    number: int
    variable: Any
    recommendation: Any
    spread: Any
    neuron_axes: tuple[int, ...]


@keras.saving.register_keras_serializable(package="laperm_lib")
class SGPerm(keras.optimizers.Optimizer):
    r"""Trains a network by permuting its initial weights in every step.

    With step t counted from 0, the aggressiveness is :math:`\max(\beta_1^t \alpha_0,
    \alpha_{\min})` and the partition ratio :math:`\min(\beta_2^t \lambda_0, \lambda_{\max})`.
    In a weight vector of d weights between a and b, a place may take a weight that is at most
    :math:`(b - a)(\alpha + 1/n)` away from its own, among the n places of its part,
    :math:`n = \max(10, \lfloor \lambda d \rfloor)`.

    Biases and normalisation parameters, which start as zeros or ones, keep their values unless they
    are permuted too or training is handed over; so does what is excluded. Trains on one device, the
    rearranging being done by the CPU. The TensorFlow step must not be compiled by XLA
    (`jit_compile=False`, Keras's choice on a CPU).

    Args:
        alpha0: aggressiveness in the first step, a share of the range of the weights.
        alpha_min: the least aggressiveness, 0 to `alpha0`.
        beta1: factor on the aggressiveness after each step, above 0 and at most 1.
        lambda0: partition ratio in the first step, a share of the weight vector.
        lambda_max: the largest partition ratio, `lambda0` to 1.
        beta2: factor on the partition ratio after each step, at least 1.
        momentum_learning_rate: the factor :math:`\eta` of the gradient in the recommendation
            :math:`m \leftarrow \eta g + \mu m`; a number or a Keras schedule. A constant one
            changes nothing. It is the optimizer's `learning_rate`.
        momentum: :math:`\mu`, 0 up to below 1.
        partition_size_min: the least size of a part, at least 2. Default 10.
        seed: for the random parts, an integer of at least 0. Equal seeds give equal trainings.
        skip_bias: leave biases as they are. Default True.
        skip_batch_norm: leave scale and offset of batch normalisation, and of the other
            normalisation layers, as they are. Default True.
        exclude: regular expressions; a variable in whose `path`, such as "sequential/dense/kernel",
            one of them is found is left as it is.
        hand_over: None, or (step, optimizer): after that many steps the optimizer, a
            `keras.optimizers.Optimizer` or its name, goes on with all variables.
        name: name of the optimizer. Default "sgperm".

    Raises:
        ValueError: for an argument outside of its range.
        ValueError: when training starts, if every variable is skipped or excluded, several devices
            train together, XLA compiles the step on TensorFlow, or JAX runs on an accelerator.
        UnknownLayerError: when training starts, for a layer whose weight vectors are not known.
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
        super().__init__(learning_rate=momentum_learning_rate, name=name)
        self.rearrangement = Rearrangement(
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
        self.skip_bias = bool(skip_bias)
        self.skip_batch_norm = bool(skip_batch_norm)
        self.exclude = check_patterns("exclude", exclude)
        self.hand_over_step, self.successor = _checked_hand_over(hand_over)

    # -- the algorithm --------------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Rearrange the weights once, or take a step of the optimizer handed over to.

        Args:
            grads: one gradient per variable, or None where there is none.
            trainable_variables: the variables; may be left out once the optimizer is built.
        """
        if not self.built:
            if trainable_variables is None:
                raise ValueError("Pass the variables too: this optimizer is not built yet.")
            with keras.name_scope(self.name, caller=self):
                self.build(list(trainable_variables))
        variables = list(trainable_variables or self._trainable_variables)
        self._check_variables_are_known(variables)
        if self.successor is None:
            self._rearrange(grads, variables)
        else:
            host.either(
                ops.convert_to_tensor(self._iterations) < self.hand_over_step,
                lambda: self._rearrange(grads, variables),
                lambda: self.successor.apply(grads, variables),
                assigned=[*variables, *self.variables],
            )
        self._iterations.assign_add(1)

    def _rearrange(self, grads: Any, variables: list[Any]) -> None:
        by_variable = {id(v): g for v, g in zip(variables, grads, strict=True) if g is not None}
        entries = [e for e in self._permuted if id(e.variable) in by_variable]
        if not entries:
            return
        weights = [ops.convert_to_tensor(e.variable) for e in entries]
        wishes = [ops.convert_to_tensor(e.recommendation) for e in entries]
        gradients = [ops.convert_to_tensor(by_variable[id(e.variable)]) for e in entries]
        spreads = [ops.convert_to_tensor(e.spread) for e in entries]
        now = [ops.convert_to_tensor(self._iterations), ops.convert_to_tensor(self.learning_rate)]

        def on_host(step: Any, rate: Any, *arrays: np.ndarray) -> list[np.ndarray]:
            by_kind = [arrays[i : i + len(entries)] for i in range(0, len(arrays), len(entries))]
            return self._on_host(entries, int(step), float(rate), *by_kind)

        new_values = host.call(
            on_host, [*now, *weights, *wishes, *gradients, *spreads], like=[*weights, *wishes]
        )
        assigned = [e.variable for e in entries] + [e.recommendation for e in entries]
        for variable, value in zip(assigned, new_values, strict=True):
            variable.assign(value)

    def _on_host(
        self,
        entries: list[_Permuted],
        step: int,
        rate: float,
        weights: tuple[np.ndarray, ...],
        previous: tuple[np.ndarray, ...],
        gradients: tuple[np.ndarray, ...],
        spreads: tuple[np.ndarray, ...],
    ) -> list[np.ndarray]:
        """The new weights, then the new recommendations."""
        how = self.rearrangement
        wishes = [how.recommend(*pair, rate) for pair in zip(previous, gradients, strict=True)]
        for entry, wish in zip(entries, wishes, strict=True):
            if not np.isfinite(wish).all():
                if keras.backend.backend() == "jax":  # it raises when training ends
                    return [*weights, *wishes]
                raise NonFiniteWeightError(_non_finite_message(entry))
        new = [
            how.rearrange(*arrays, neuron_axes=entry.neuron_axes, number=entry.number, step=step)
            for entry, *arrays in zip(entries, weights, wishes, spreads, strict=True)
        ]
        return new + wishes

    def finalize_variable_values(self, var_list: Any) -> None:
        """Let the optimizer handed over to end as it does (Keras calls this when `fit` ends)."""
        if not self.built or not backend.have_values([*var_list, *self.variables]):
            return
        for entry in self._permuted:
            if not np.isfinite(ops.convert_to_numpy(entry.recommendation)).all():
                raise NonFiniteWeightError(_non_finite_message(entry))
        if self.successor is not None and int(ops.convert_to_numpy(self._iterations)) > (
            self.hand_over_step
        ):
            self.successor.finalize_variable_values(var_list)

    # -- the state --------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Create the state, and measure the ranges of the variables' present values.

        Args:
            variables: the trainable variables, a list of `keras.Variable` objects.
        """
        candidates = [v for v in variables if not self._is_excluded(v)]
        self._build(variables, weight_vectors.of_variables(candidates))

    def capture(self, model: keras.Model) -> None:
        """Take a model's present weights as its initial ones, and forget the recommendations.

        The first training step does this by itself. Call it for weights that are loaded or pruned
        later, whose ranges may be others.

        Args:
            model: a built model whose trainable variables this optimizer trains.

        Raises:
            ValueError: if the model is not built, or not the one being trained.
            NonFiniteWeightError: if a weight is NaN or infinite.
            UnknownLayerError: if a layer's weight vectors are not known.
        """
        if not self.built:
            known = weight_vectors.of(model, weight_vectors.KINDS, skip=self._is_excluded)
            self._build(model.trainable_variables, known)
            return
        self._check_variables_are_known(model.trainable_variables)
        spreads = [_spread(entry.variable, entry.neuron_axes) for entry in self._permuted]
        for entry, spread in zip(self._permuted, spreads, strict=True):
            entry.spread.assign(spread)
            entry.recommendation.assign(ops.zeros(entry.recommendation.shape))

    @property
    def permuted_variables(self) -> list[Any]:
        """The variables whose weights are rearranged; all others keep their values."""
        if not self.built:
            raise ValueError("Nothing is known yet: train a step, or call capture(model).")
        return [entry.variable for entry in self._permuted]

    def _build(self, variables: Any, known: list[WeightVectors]) -> None:
        host.check()
        if not compiled_cycles.available:
            _log.warning('Steps take hundreds of times longer: pip install "laperm-lib[fast]".')
        skipped = {"bias"} if self.skip_bias else set()
        skipped |= {"normalization"} if self.skip_batch_norm else set()
        # While TensorFlow traces the first step, variables have values only outside of its graph.
        with backend.outside_graph():
            ranges = [
                (v, _spread(v.variable, v.neuron_axes)) for v in known if v.kind not in skipped
            ]
        if not ranges:
            raise ValueError("Nothing is left to permute: every variable is skipped or excluded.")
        self._permuted = []
        for number, (vectors, spread) in enumerate(ranges):
            name = vectors.variable.path.replace("/", "_")
            recommendation = self.add_variable(
                shape=vectors.variable.shape, dtype="float32", name=f"{name}_recommendation"
            )
            kept = self.add_variable(
                shape=spread.shape,
                dtype="float32",
                initializer=lambda shape, dtype, spread=spread: ops.convert_to_tensor(spread),
                name=f"{name}_spread",
            )
            self._permuted.append(
                _Permuted(number, vectors.variable, recommendation, kept, vectors.neuron_axes)
            )
        if self.successor is not None and not self.successor.built:
            self.successor.build(variables)
        super().build(variables)

    def _is_excluded(self, variable: Any) -> bool:
        return any(re.search(pattern, variable.path) for pattern in self.exclude)

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
        return self.rearrangement.to_json() | {
            "momentum_learning_rate": rate,
            "skip_bias": self.skip_bias,
            "skip_batch_norm": self.skip_batch_norm,
            "exclude": list(self.exclude),
            "hand_over": hand_over,
            "name": self.name,
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


def _spread(variable: Any, neuron_axes: tuple[int, ...]) -> np.ndarray:
    """The range of each weight vector of a variable that has values, float32, shape (neurons,)."""
    matrix = to_matrix(ops.convert_to_numpy(variable), neuron_axes).astype(np.float32)
    if not np.isfinite(matrix).all():
        raise NonFiniteWeightError(
            f"The initial values of '{variable.path}' hold a NaN or an infinity."
        )
    return matrix.max(axis=1) - matrix.min(axis=1)


def _non_finite_message(entry: _Permuted) -> str:
    return (
        f"The gradient of '{entry.variable.path}' holds a NaN or an infinity; no weight was moved."
    )


def _checked_hand_over(hand_over: Any) -> tuple[int, Any]:
    """The step and the optimizer, or (0, None)."""
    if hand_over is None:
        return 0, None
    try:
        step, successor = hand_over
    except (TypeError, ValueError):
        raise ValueError(f"hand_over is (step, optimizer), got {hand_over!r}.") from None
    step = check_integer("The step of hand_over", step, at_least=1)
    successor = keras.optimizers.get(successor)
    if not isinstance(successor, keras.optimizers.Optimizer):
        raise ValueError(f"hand_over is (step, optimizer), got {hand_over!r}.")
    scales_itself = isinstance(successor, keras.optimizers.LossScaleOptimizer)
    if scales_itself or successor.loss_scale_factor is not None:
        raise ValueError(
            "The optimizer handed over to cannot scale the loss: put "
            "keras.optimizers.LossScaleOptimizer around SGPerm."
        )
    return step, successor
