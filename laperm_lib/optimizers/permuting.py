"""What LaPerm and SGPerm share: which variables they permute, and when those count as initial.

Both take a model's weights as they are at the first training step, or at `capture`, and permute
those that are neither skipped by kind nor excluded by pattern. How is each subclass's own matter.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.optimizers.selection import Selection
from laperm_lib.permutation import to_matrix
from laperm_lib.weight_vectors import WeightVectors

_log = logging.getLogger(__name__)


class PermutingOptimizer(keras.optimizers.Optimizer):
    """The base of `LaPerm` and `SGPerm`, whose docstrings explain the arguments.

    Subclasses say in `_create_state` what is kept of the variables that are permuted, in
    `_capture_again` how it is renewed, and in `_take_step` what a training step does.
    """

    _permuted: Sequence[Any]  # what is kept of each permuted variable, itself as `variable`

    def __init__(
        self,
        *,
        learning_rate: Any,
        skip_bias: bool,
        skip_batch_norm: bool,
        exclude: Iterable[str],
        name: str,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.selection = Selection(
            skip_bias=skip_bias, skip_batch_norm=skip_batch_norm, exclude=exclude
        )

    # -- what subclasses say ----------------------------------------------------------------------

    def _create_state(self, variables: list[Any], chosen: list[WeightVectors]) -> None:
        """Make the optimizer's own variables, once all values are read, and set `_permuted`.

        `variables` are all trainable ones, `chosen` the weight vectors of those to be permuted.
        """
        raise NotImplementedError

    def _capture_again(self) -> None:
        """Take the present weights as the initial ones: all of them or, with an error, none."""
        raise NotImplementedError

    def _take_step(self, grads: list[Any], variables: list[Any]) -> None:
        """Take a training step, once the state is there."""
        raise NotImplementedError

    # -- what they share --------------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Take a training step; the first one creates the state.

        Args:
            grads: one gradient per variable, or None where there is none.
            trainable_variables: the variables. Default: those that it was built with; the first
                step needs them, or raises a ValueError.
        """
        if not self.built:
            if trainable_variables is None:
                raise ValueError("Pass the variables too: this optimizer is not built yet.")
            with keras.name_scope(self.name, caller=self):
                self.build(list(trainable_variables))
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        self._take_step(list(grads), list(trainable_variables))

    def build(self, variables: Any) -> None:
        """Create the state, and take the variables' present values as the initial ones."""
        # Keras builds the optimizer of an HDF5 file before the model has variables.
        if not variables:
            return
        self._build(variables, self.selection.of_variables(variables))

    def capture(self, model: keras.Model) -> None:
        """Take a model's present weights as its initial ones.

        The first training step does this by itself. Call it for weights that are loaded or pruned
        later, or before that; or where `gc.freeze()` has hidden the layers from the first step.

        Args:
            model: a built model whose trainable variables this optimizer trains.

        Raises:
            ValueError: if the model is not built, or not the one being trained.
            NonFiniteWeightError: if a weight is NaN or infinite.
            UnknownLayerError: if a layer's weight vectors are not known.
        """
        if self.built:
            self._check_variables_are_known(model.trainable_variables)
            self._capture_again()
        else:
            self._build(model.trainable_variables, self.selection.of_model(model))

    @property
    def permuted_variables(self) -> list[Any]:
        """The variables that are permuted.

        Raises:
            ValueError: before the first training step or `capture`.
        """
        self._require_built()
        return [entry.variable for entry in self._permuted]

    def get_config(self) -> dict[str, Any]:
        """The arguments that both optimizers have, serialisable."""
        return {**self.selection.get_config(), "name": self.name}

    def _build(self, variables: Any, chosen: list[WeightVectors]) -> None:
        # While TensorFlow traces the first step, variables have values only outside of its graph,
        # and values made inside of it stay in it as constants, several copies of them.
        with backend.outside_graph():
            self._create_state(list(variables), chosen)
            super().build(variables)
            stuck = [v.path for v in chosen if v.kind == "kernel" and _is_stuck(v)]
        if stuck:
            _log.warning(
                "Permuting cannot change %s: all weights of a vector are equal.", ", ".join(stuck)
            )

    def _add_values(self, of: WeightVectors, name: str, values: np.ndarray, dtype: Any) -> Any:
        """Make a variable of the optimizer's own for one of the model's, with these values."""
        return self.add_variable(
            shape=values.shape,
            dtype=dtype,
            initializer=lambda shape, dtype: ops.convert_to_tensor(values, dtype),
            name=f"{of.variable.path.replace('/', '_')}_{name}",
        )

    def _require_built(self) -> None:
        if not self.built:
            raise ValueError("No initial values yet: train a step, or call capture(model).")


def _is_stuck(vectors: WeightVectors) -> bool:
    """Whether the values have one permutation only: vectors of one weight, or of equal ones."""
    matrix = vectors.matrix()
    return bool((matrix == matrix[:, :1]).all())


def initial_matrix(variable: Any, neuron_axes: tuple[int, ...]) -> np.ndarray:
    """The weight vectors of a variable that has values, all finite, shape (neurons, d)."""
    matrix = to_matrix(ops.convert_to_numpy(variable), neuron_axes)
    if not np.isfinite(matrix).all():
        raise NonFiniteWeightError(
            f"The initial values of '{variable.path}' hold a NaN or an infinity."
        )
    return matrix


def refuse_loss_scaling(optimizer: keras.optimizers.Optimizer, role: str, around: str) -> None:
    """Refuse an optimizer that multiplies the loss, where another one decides when it steps."""
    is_wrapper = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if is_wrapper or optimizer.loss_scale_factor is not None:
        raise ValueError(
            f"{role} cannot scale the loss: put keras.optimizers.LossScaleOptimizer around "
            f"{around}."
        )


def nested(optimizer: Any) -> Iterator[Any]:
    """An optimizer, the one inside it, and so on."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def steps_taken(model: keras.Model) -> int:
    """How many steps a compiled model has been trained for, as its optimizer counts them.

    The `batch` that Keras gives callbacks counts beyond the end in a last, shorter execution of
    `steps_per_execution`. A callback passes its `self.model`: JAX's `fit` keeps the state of a
    model apart, and asking for that one puts it back.
    """
    return int(ops.convert_to_numpy(model.optimizer.iterations))
