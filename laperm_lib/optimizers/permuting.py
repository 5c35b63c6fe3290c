"""What LaPerm and SGPerm share: which variables they permute, and when those count as initial.

Both take a model's weights as they are at the first training step, or at `capture`, and permute
those that are neither skipped by kind nor excluded by pattern. How is each subclass's own matter.

Keras builds an optimizer before weights are final, or before they exist: in `evaluate`, for a model
that is loaded, or while the first step of a model without input shape is traced. So `build` creates
state without reading a weight. The first training step captures the initial values, inside of the
graph where the step is compiled, unless they were restored or captured before: a flag for each
variable, saved with the rest, says so.
"""

import dis
import functools
import itertools
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.optimizers.selection import Selection
from laperm_lib.permutation import to_matrix
from laperm_lib.weight_vectors import WeightVectors, alive

_log = logging.getLogger(__name__)

_NOTHING_YET = "No initial values yet: train a step, or call capture(model)."
MOST_STEPS = 2**31 - 1
"""Beyond this JAX does not count."""

_NAMES = "names"  # beside the numbered variables in a saved state


class PermutingOptimizer(keras.optimizers.Optimizer):
    """The base of `LaPerm` and `SGPerm`, whose docstrings explain the arguments.

    Subclasses say in `_create_state` what is kept of the variables that are permuted, in `_initial`
    what of that comes from the initial values, and in `_take_step` what a training step does.
    """

    _permuted: Sequence[Any]  # what is kept of each permuted variable, itself as `variable`
    _refused: Sequence[str]  # attributes of `keras.optimizers.Optimizer` that it cannot have
    _instead: str  # what to do instead
    _starts: Sequence[Any]  # for each the own variable that holds what `_initial` gives
    _in_words = "permuted"  # what happens to variables
    _stuck_if = "all weights of a vector are equal"

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

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what other optimizers of Keras do, and this one would ignore."""
        if name in self._refused and value not in (None, False):
            raise AttributeError(f"{type(self).__name__} has no {name} of its own: {self._instead}")
        super().__setattr__(name, value)

    # -- what subclasses say ----------------------------------------------------------------------

    def _create_state(self, variables: list[Any], chosen: list[WeightVectors]) -> None:
        """Make the optimizer's own variables, which start as zeros; set `_permuted`, `_starts`.

        `variables` are all trainable ones, `chosen` the weight vectors of those to be permuted.
        """
        raise NotImplementedError

    def _initial(self, matrix: np.ndarray) -> np.ndarray:
        """What is kept of the finite initial weight vectors of a variable, shape (neurons, d)."""
        raise NotImplementedError

    def _initial_in_graph(self, matrix: Any) -> Any:
        """The same as a tensor, where no host callback is possible."""
        raise NotImplementedError

    def _are_stuck(self, matrix: np.ndarray) -> np.ndarray:
        """Which weight vectors cannot change, shape (neurons,)."""
        return (matrix == matrix[:, :1]).all(axis=1)

    def _begin(self) -> None:
        """Renew what else depends on the initial values, after `capture`."""

    def _take_step(self, grads: list[Any], variables: list[Any]) -> None:
        """Take a training step, once the state is there."""
        raise NotImplementedError

    # -- what they share --------------------------------------------------------------------------

    @backend.unconverted
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
        grads, variables = list(grads), list(trainable_variables)
        if len(grads) != len(variables) or not grads:
            raise ValueError(
                f"{len(variables)} variables need as many gradients, None where there is none; "
                f"got {len(grads)}."
            )
        if all(gradient is None for gradient in grads):
            raise ValueError(
                f"No gradient for any of {', '.join(v.path for v in variables[:3])}, ...: the loss "
                "does not depend on them."
            )
        self._capture_in_step()
        self._take_step(grads, variables)

    @backend.unconverted
    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Take a training step, as `apply` does, and return the step count."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
        return self.iterations

    def build(self, variables: Any) -> None:
        """Create the state; no value is read."""
        # Keras builds the optimizer of an HDF5 file before the model has variables.
        if not variables:
            return
        layers = alive(keras.Layer)
        self._build(variables, self.selection.of_variables(variables, layers), layers)

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
        else:
            chosen = self.selection.of_model(model)
            self._build(model.trainable_variables, chosen, model._flatten_layers())
        matrices = [
            check_initial(e.variable, to_matrix(ops.convert_to_numpy(e.variable), e.neuron_axes))
            for e in self._permuted
        ]
        self._warn_of_stuck([bool(self._are_stuck(matrix).all()) for matrix in matrices])
        initial = list(map(self._initial, matrices))
        for start, values in zip(self._starts, initial, strict=True):
            start.assign(values)
        self._captured.assign(np.ones(len(initial), "int32"))
        self._begin()

    @property
    def permuted_variables(self) -> list[Any]:
        """The variables that are permuted.

        Raises:
            ValueError: before the first training step or `capture`.
        """
        if not self.built:
            raise ValueError(_NOTHING_YET)
        return [entry.variable for entry in self._permuted]

    def summary(self) -> "Table":
        """A table of the variables: what is permuted and how freely, what is not.

        Its columns are the variable's path; "permuted", "excluded", or what else happens to it; the
        number of weight vectors and their length; how many distinct values they hold; how many of
        them cannot change, as all their values are equal; and, for LaPerm, how far the weights are
        from a permutation of their initial values: the mean absolute difference to what a
        synchronisation now would give. The last line counts the steps.

        Returns:
            The text, which a notebook or an interpreter shows as a table.

        Raises:
            ValueError: before the first training step or `capture`.

        Examples:
            >>> from laperm_lib import LaPerm
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu")])
            >>> _ = model.layers[0].kernel.assign(np.tile([[1.0], [-1.0]], (2, 3)))
            >>> optimizer = LaPerm("adam", sync_period=20)
            >>> optimizer.capture(model)
            >>> optimizer.summary().splitlines()[1].split()[1:]
            ['permuted', '3', 'x', '4', '2', '0', '0']
        """
        if not self.built:
            raise ValueError(_NOTHING_YET)
        permuted = {id(entry.variable): entry for entry in self._permuted}
        rows = [("variable", "", "vectors", "distinct", "constant", "distance")]
        for variable in self._trainable_variables:
            entry = permuted.get(id(variable))
            if entry is None:
                excluded = self.selection.excludes(variable)
                rows.append(
                    (variable.path, "excluded" if excluded else self._otherwise(), *[""] * 4)
                )
                continue
            matrix = to_matrix(ops.convert_to_numpy(variable), entry.neuron_axes)
            image = self._image(entry, matrix)
            neurons, length = matrix.shape
            constant = int(self._are_stuck(image).sum())
            distance = f"{np.abs(matrix - image).mean(dtype='float64'):.3g}"
            counts = (f"{neurons} x {length}", f"{np.unique(image).size}", f"{constant}")
            rows.append((variable.path, self._in_words, *counts, distance))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return Table("\n".join([*lines, self._steps_in_words()]))

    def _otherwise(self) -> str:
        """What happens to variables that are skipped by kind."""
        raise NotImplementedError

    def _image(self, entry: Any, matrix: np.ndarray) -> np.ndarray:
        """The permutation of the initial values that weight vectors stand for now."""
        return matrix

    def _steps_in_words(self) -> str:
        return f"{int(ops.convert_to_numpy(self.iterations))} steps"

    def get_config(self) -> dict[str, Any]:
        """The arguments that both optimizers have, serialisable."""
        return {**self.selection.get_config(), "name": self.name}

    def _build(
        self, variables: Any, chosen: list[WeightVectors], layers: Iterable[keras.Layer]
    ) -> None:
        # While TensorFlow traces the first step, variables can be made only outside of its graph.
        with backend.outside_graph():
            self._create_state(list(variables), chosen)
            self._kernels = [v.variable.path if v.kind == "kernel" else "" for v in chosen]
            self._captured = self.add_variable(
                shape=(len(chosen),), dtype="int32", initializer="zeros", name="captured"
            )
            super().build(variables)
            self._warn_of_written(layers)

    def _add_state(self, of: WeightVectors, name: str, shape: Any, dtype: Any) -> Any:
        """Make a variable of the optimizer's own, of zeros, for one of the model's."""
        name = f"{of.variable.path.replace('/', '_')}_{name}"
        return self.add_variable(shape=shape, dtype=dtype, initializer="zeros", name=name)

    def _capture_in_step(self) -> None:
        """Take the initial values of those variables that have none yet, in a training step."""
        state = [self._captured, *self._starts]
        # Read outside of the branches: see `backend.cond`.
        weights = [ops.convert_to_tensor(entry.variable) for entry in self._permuted]
        missing = ops.any(ops.equal(self._captured, 0))

        def capture() -> None:
            before = [ops.convert_to_tensor(variable) for variable in state]
            if backend.allows_host_callback([entry.variable for entry in self._permuted]):
                arrays = [*before, *weights]
                after = backend.host_callback(self._captured_on_host, arrays, like=before)
            else:
                after = self._captured_in_graph(before, weights)
            for variable, value in zip(state, after, strict=True):
                variable.assign(value)

        backend.uncompiled(backend.cond)(missing, capture, lambda: None, assigned=state)

    def _captured_on_host(self, captured: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
        starts, weights = list(arrays[: len(captured)]), arrays[len(captured) :]
        captured, stuck = captured.copy(), [False] * len(captured)
        for number, (entry, values) in enumerate(zip(self._permuted, weights, strict=True)):
            if captured[number]:
                continue
            matrix = to_matrix(values, entry.neuron_axes)
            if backend.host_callbacks_can_raise():
                check_initial(entry.variable, matrix)
            elif not np.isfinite(matrix).all():
                continue
            starts[number] = np.asarray(self._initial(matrix), starts[number].dtype)
            captured[number], stuck[number] = 1, bool(self._are_stuck(matrix).all())
        self._warn_of_stuck(stuck)
        return [captured, *starts]

    def _captured_in_graph(self, before: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
        captured, *starts = before
        finite = ops.stack([ops.all(ops.isfinite(weight)) for weight in weights])
        new = ops.logical_and(ops.equal(captured, 0), finite)
        for number, (entry, weight) in enumerate(zip(self._permuted, weights, strict=True)):
            initial = self._initial_in_graph(to_matrix(weight, entry.neuron_axes, ops))
            starts[number] = ops.where(new[number], initial, starts[number])
        return [ops.where(new, ops.ones_like(captured), captured), *starts]

    def _warn_of_stuck(self, stuck: Sequence[bool]) -> None:
        kernels = zip(self._kernels, stuck, strict=True)
        names = [path for path, is_stuck in kernels if path and is_stuck]
        if names:
            _log.warning(
                "%s cannot change %s: %s. Initialise them with different values; or, as the zero "
                "kernel of LoRA needs, leave them to the inner optimizer of LaPerm: exclude=%r.",
                type(self).__name__,
                ", ".join(names),
                self._stuck_if,
                sorted({name.split("/")[-1] if "lora" in name else name for name in names}),
            )

    def _warn_of_written(self, layers: Iterable[keras.Layer]) -> None:
        """Warn of layers whose call gives permuted variables other values."""
        permuted = {id(entry.variable) for entry in self._permuted}
        for layer in layers:
            for name in _assigned_in(type(layer).call):
                if any(id(getattr(o, name, None)) in permuted for o in (layer, _wrapped(layer))):
                    _log.warning(
                        "%s (%s) writes its %s in every forward pass, so that will be no "
                        "permutation of its initial values: exclude it, or use another layer.",
                        layer.path,
                        type(layer).__name__,
                        name,
                    )

    @property
    def _is_captured(self) -> bool:
        """Whether all initial values are known; asked outside of a training step."""
        return self.built and bool(ops.convert_to_numpy(self._captured).all())

    def _check_initial(self) -> None:
        """Refuse weights that are not finite, where they are the initial ones."""
        for entry in self._permuted:
            check_initial(entry.variable, ops.convert_to_numpy(entry.variable))

    def _require_captured(self) -> None:
        if not self._is_captured:
            raise ValueError(_NOTHING_YET)

    # -- saving and loading -----------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Save all variables, and their paths, by which another set of layers is matched."""
        super().save_own_variables(store)
        if self.built:
            names = {
                "paths": [variable.path for variable in self.variables],
                "starts": [start.path for start in self._starts],
                "trained": [variable.path for variable in self._trainable_variables],
            }
            store[_NAMES] = np.frombuffer(json.dumps(names).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Load all variables; where layers were frozen or unfrozen since, those of the same path.

        A variable that is permuted now and was not saved is captured at the first training step, of
        which a warning tells.

        Raises:
            ValueError: if a variable was saved with another shape; nothing is loaded then.
        """
        keys = set(store.keys())
        if not self.built or (_NAMES not in keys and len(keys) != len(self.variables) - 1):
            super().load_own_variables(store)  # which warns that it loads nothing
            return
        own = {variable.path: variable for variable in self.variables}
        flag = self._captured.path
        paths, starts = list(own), [start.path for start in self._starts]
        if _NAMES in keys:
            names = json.loads(np.asarray(store[_NAMES]).tobytes())
            now = [variable.path for variable in self._trainable_variables]
            for key in ("paths", "starts"):
                names[key] = _renamed(names[key], names["trained"], now)
            # The layers of a model that is built again may have other names, in the same order.
            if len(names["paths"]) != len(own) or own.keys() & set(names["starts"]):
                paths, starts = names["paths"], names["starts"]
        else:  # an earlier version had no flags: what it has saved was captured
            paths.remove(flag)
        saved = {path: np.asarray(store[str(number)]) for number, path in enumerate(paths)}
        flags = dict(zip(starts, saved.pop(flag, np.ones(len(starts))), strict=True))
        both = [path for path in own if path in saved]
        for path in both:
            if saved[path].shape != tuple(own[path].shape):
                raise ValueError(
                    f"'{path}' was saved with the shape {saved[path].shape}, but has the shape "
                    f"{tuple(own[path].shape)}: the state is that of another model."
                )
        for path in both:
            own[path].assign(saved[path])
        captured = [flags.get(start.path, 0) for start in self._starts]
        self._captured.assign(np.array(captured, "int32"))
        missing = [
            entry.variable.path
            for entry, start in zip(self._permuted, self._starts, strict=True)
            if start.path not in saved
        ]
        if missing:
            warnings.warn(
                f"{self.name} was saved without {', '.join(missing)}: the initial values of these "
                "are captured at the next training step.",
                stacklevel=2,
            )


def _renamed(paths: Sequence[str], before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The paths of an optimizer's variables, for a model whose own are called otherwise now.

    Keras puts the name of a model before its variables, "sequential/dense/kernel", but not when it
    loads them.
    """
    renamed = list(paths)
    for old in before:
        ends = [new for new in now if f"/{old}".endswith(f"/{new}") or new.endswith(f"/{old}")]
        if old not in now and len(ends) == 1:
            was, becomes = (f"/{path.replace('/', '_')}_" for path in (old, ends[0]))
            renamed = [path.replace(was, becomes) for path in renamed]
    return renamed


class Table(str):
    """Text that an interpreter shows line by line."""

    def __repr__(self) -> str:
        return str(self)


@functools.cache
def _assigned_in(function: Any) -> set[str]:
    """The attributes that a method assigns to as variables: `self.kernel.assign(...)`."""
    code = getattr(function, "__code__", None)
    names = [] if code is None else [step.argval for step in dis.get_instructions(code)]
    writing = ("assign", "assign_add", "assign_sub")
    return {name for name, then in itertools.pairwise(names) if then in writing}


def _wrapped(layer: keras.Layer) -> Any:
    """The layer inside a wrapper such as SpectralNormalization, if it is one."""
    return vars(layer).get("layer")


def check_initial(variable: Any, matrix: np.ndarray) -> np.ndarray:
    """Refuse initial weight vectors that are not finite; give them back."""
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
    """An optimizer and all that are inside it, as in loss scaling and in `MultiOptimizer`."""
    if optimizer is not None:
        yield optimizer
        parts = getattr(optimizer, "optimizers", ())
        for inside in (getattr(optimizer, "inner_optimizer", None), *parts):
            yield from nested(inside)


def optimizer_of(model: keras.Model, given: Any = None) -> Any:
    """The optimizer that trains a model: the one given, or the model's.

    A model with a training step of its own may keep a permuting optimizer under another name, and
    an unused one of Keras's choice as its `optimizer`.
    """
    if given is not None:
        return given
    own = getattr(model, "optimizer", None)  # none before it is compiled
    held = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    for optimizer in (own, *held):
        if any(isinstance(each, PermutingOptimizer) for each in nested(optimizer)):
            return optimizer
    return own


def steps_taken(model: keras.Model, optimizer: Any = None) -> int:
    """How many steps a compiled model has been trained for, as its optimizer counts them.

    The `batch` that Keras gives callbacks counts beyond the end in a last, shorter execution of
    `steps_per_execution`. A callback passes its `self.model`: JAX's `fit` keeps the state of a
    model apart, and asking for that one puts it back.
    """
    return int(ops.convert_to_numpy(optimizer_of(model, optimizer).iterations))
