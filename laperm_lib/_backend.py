"""Where the backends differ: devices, and how weights are synchronised inside a training step.

On a CPU, training steps hand the weights to NumPy, or to code compiled by Numba where that is
installed; both are many times faster than the backends' own sorts. Accelerators sort in the graph,
where the weights are, and so does TensorFlow under XLA (`jit_compile=True`), which can call no host
code. `synchronise_when` makes that choice, and no other place does.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import _host as host
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import from_matrix, reconnect, to_matrix
from laperm_lib.synchronisation import compiled
from laperm_lib.synchronisation.in_graph import reconnect_all

# Compiling takes seconds once on a machine, which networks of fewer weights would not win back.
_WORTH_COMPILING = 100_000

# One group of variables after another is synchronised, so that no more than the new values of one
# are held beside the old ones. So many weights are enough to share among threads.
_GROUP = 2_000_000


@dataclass(frozen=True)
class PermutedVariable:
    """A variable that is synchronised, and what is needed for it.

    Args:
        variable: the model's variable.
        sorted_initial: its sorted initial values, one weight vector per row: a variable of shape
            (neurons, d).
        neuron_axes: the axes of `variable` that run over neurons.
    """

    variable: Any
    sorted_initial: Any
    neuron_axes: tuple[int, ...]


def outside_graph() -> AbstractContextManager[Any]:
    """A context in which variables have values, also while TensorFlow traces a training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return nullcontext()


def accelerators() -> list[str]:
    """The names of the GPUs and TPUs that the backend sees, one for each; none on a CPU alone."""
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(device) for device in devices]
        return [str(detail.get("device_name", "GPU")) for detail in details]
    if name == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import torch

    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


def have_values(variables: Sequence[Any]) -> bool:
    """Whether variables hold values: JAX's `fit` takes them away, for good if a step raises."""
    if keras.backend.backend() != "jax":
        return True
    arrays = [variable._value for variable in variables]
    return all(array is not None and not array.is_deleted() for array in arrays)


def synchronise(permuted: Sequence[PermutedVariable]) -> None:
    """Synchronise variables that have values, all or none of them.

    Args:
        permuted: the variables.

    Raises:
        NonFiniteWeightError: if a weight is NaN or infinite; names the variable.
    """
    _check_finite(permuted, (ops.convert_to_numpy(entry.variable) for entry in permuted))
    for group in _groups(permuted):
        _assign(group, _on_host(group, *_arrays(group, ops.convert_to_numpy)))


def synchronise_when(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    """Synchronise inside a training step if the boolean tensor `due` says so.

    Args:
        due: scalar boolean tensor.
        permuted: the variables.

    Raises:
        NonFiniteWeightError: if a weight is NaN or infinite; names the variable. TensorFlow wraps
            it in its InvalidArgumentError. With JAX, and where weights are sorted in the graph, no
            step can raise it (one compiled by XLA would lose its state): all weights are left as
            they are, and `synchronise` raises when `fit` ends, for no step makes a NaN or an
            infinity finite again.
    """
    # No `match` in what a training step calls: AutoGraph, in a loop of the user's own, warns of it.
    name = keras.backend.backend()
    if name == "tensorflow":
        _synchronise_when_on_tensorflow(due, permuted)
    elif name == "jax":
        _synchronise_when_on_jax(due, permuted)
    else:
        _synchronise_when_on_torch(due, permuted)


def _synchronise_when_on_tensorflow(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import tensorflow as tf

    if tf.executing_eagerly():
        if due:
            synchronise(permuted)
        return
    in_graph = tf.config.list_physical_devices("GPU") or host.is_compiled_by_xla()

    def check(*weights: np.ndarray) -> list[np.ndarray]:
        _check_finite(permuted, weights)
        return [np.array(True)]

    def assign_new_values() -> None:
        if in_graph:
            _assign(permuted, _in_graph(permuted, _arrays(permuted, ops.convert_to_tensor)))
            return
        weights = [ops.convert_to_tensor(entry.variable) for entry in permuted]
        done = host.call(check, weights, like=[due])
        for group in _groups(permuted):
            with tf.control_dependencies(done):
                arrays = _arrays(group, ops.convert_to_tensor)
                done = host.call(partial(_on_host, group), arrays, like=arrays[: len(group)])
                _assign(group, done)

    tf.cond(due, assign_new_values, lambda: None)


def _synchronise_when_on_jax(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import jax

    def keep(*arrays: Any) -> list[Any]:
        return list(arrays[: len(permuted)])

    def in_graph(*arrays: Any) -> list[Any]:
        return _in_graph(permuted, arrays)

    def unless_not_finite(*arrays: np.ndarray) -> list[np.ndarray]:
        weights = keep(*arrays)
        finite = all(np.isfinite(array).all() for array in weights)
        return _on_host(permuted, *arrays) if finite else weights

    def on_host(*arrays: Any) -> list[Any]:
        return host.call(unless_not_finite, arrays, like=keep(*arrays))

    def where_fastest(*arrays: Any) -> list[Any]:
        if not host.jax_can_call():
            return in_graph(*arrays)
        return jax.lax.platform_dependent(*arrays, cpu=on_host, default=in_graph)

    # JAX's conditionals are functions: return new values from the branches, assign outside.
    arrays = _arrays(permuted, ops.convert_to_tensor)
    _assign(permuted, jax.lax.cond(due, where_fastest, keep, *arrays))


def _synchronise_when_on_torch(due: Any, permuted: Sequence[PermutedVariable]) -> None:
    import torch

    def assign_new_values() -> None:
        if not due:
            return
        if all(entry.variable.value.device.type == "cpu" for entry in permuted):
            synchronise(permuted)
            return
        _assign(permuted, _in_graph(permuted, _arrays(permuted, ops.convert_to_tensor)))

    # NumPy and a branch on data can be no part of what torch compiles.
    torch.compiler.disable(assign_new_values)()


def _arrays(permuted: Sequence[PermutedVariable], convert: Callable[[Any], Any]) -> list[Any]:
    """All weights, then all sorted initial values."""
    return [convert(entry.variable) for entry in permuted] + [
        convert(entry.sorted_initial) for entry in permuted
    ]


def _assign(permuted: Sequence[PermutedVariable], new_values: Sequence[Any]) -> None:
    for entry, value in zip(permuted, new_values, strict=True):
        entry.variable.assign(value)


def _groups(permuted: Sequence[PermutedVariable]) -> Iterator[list[PermutedVariable]]:
    """Cut a list of variables where a group has got `_GROUP` weights."""
    group: list[PermutedVariable] = []
    size = 0
    for entry in permuted:
        group.append(entry)
        size += math.prod(entry.variable.shape)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _on_host(permuted: Sequence[PermutedVariable], *arrays: np.ndarray) -> list[np.ndarray]:
    """Synchronise finite weights on the CPU: `arrays` as `_arrays` gives them."""
    weights, initial = arrays[: len(permuted)], arrays[len(permuted) :]
    worth_compiling = sum(array.size for array in weights) >= _WORTH_COMPILING
    columns = [
        number
        for number, (entry, before) in enumerate(zip(permuted, weights, strict=True))
        if compiled.available and worth_compiling and _are_columns(before, entry.neuron_axes)
    ]
    synchronised = compiled.reconnect_columns(
        [weights[n].reshape(-1, weights[n].shape[-1]) for n in columns],
        [initial[n] for n in columns],
    )
    new_values = dict(zip(columns, synchronised, strict=True))
    for number, (entry, before) in enumerate(zip(permuted, weights, strict=True)):
        axes = entry.neuron_axes
        if number in new_values:
            new_values[number] = new_values[number].reshape(before.shape)
        else:
            new = reconnect(to_matrix(before, axes), initial[number])
            # `np.ascontiguousarray` would make shape (1,) of ().
            new_values[number] = np.asarray(from_matrix(new, before.shape, axes), order="C")
    return [new_values[number] for number in range(len(permuted))]


def _are_columns(weights: np.ndarray, neuron_axes: tuple[int, ...]) -> bool:
    """Whether the weight vectors are the columns of a float32 matrix, as in dense and conv."""
    return neuron_axes in ((-1,), (weights.ndim - 1,)) and weights.dtype == np.float32


def _in_graph(permuted: Sequence[PermutedVariable], arrays: Sequence[Any]) -> list[Any]:
    """Synchronise with tensor operations: `arrays` as `_arrays` gives them."""
    axes = [entry.neuron_axes for entry in permuted]
    return reconnect_all(axes, arrays[: len(permuted)], arrays[len(permuted) :])


def _check_finite(permuted: Sequence[PermutedVariable], weights: Iterable[np.ndarray]) -> None:
    for entry, array in zip(permuted, weights, strict=True):
        if not np.isfinite(array).all():
            raise NonFiniteWeightError(
                f"'{entry.variable.path}' holds a NaN or an infinity, so its weight vectors have "
                "no order; no weight was synchronised. Lower the learning rate or clip the "
                "gradients."
            )
