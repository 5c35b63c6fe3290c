"""The synchronisation as a part of a training step, on any backend and device.

On a CPU a step hands the weights to NumPy, and large networks to code compiled by Numba; both are
many times faster than the backends' own sorts. Accelerators sort in the graph, where the weights
are, and so does TensorFlow under XLA (`jit_compile=True`). All give the same bits.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from laperm_lib import _backend as backend
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.permutation import from_matrix, to_matrix
from laperm_lib.synchronisation.projections import Permutations, Projection

# Compiling takes seconds once on a machine, which networks of fewer weights would not win back.
_WORTH_COMPILING = 100_000

# One group of variables after another is synchronised, so that no more than the new values of one
# are held beside the old ones. So many weights are enough to share among threads.
_GROUP = 2_000_000


@dataclass(frozen=True)
class ProjectedVariable:
    """A variable that is synchronised, and what is kept of its initial values, (neurons, d)."""

    variable: Any
    kept: Any
    neuron_axes: tuple[int, ...]
    projection: Projection


def synchronise(permuted: Sequence[ProjectedVariable]) -> None:
    """Synchronise variables that have values: all or, with a NonFiniteWeightError, none."""
    _check_finite(permuted, (ops.convert_to_numpy(entry.variable) for entry in permuted))
    for group in _groups(permuted):
        entries = permuted[group]
        arrays = [e.variable for e in entries] + [e.kept for e in entries]
        _assign(entries, _on_host(entries, True, *map(ops.convert_to_numpy, arrays)))


def synchronise_when(due: Any, permuted: Sequence[ProjectedVariable]) -> None:
    """Synchronise inside a training step if the boolean tensor `due` says so.

    A weight that is not finite raises a NonFiniteWeightError, which TensorFlow wraps in its
    InvalidArgumentError. With JAX, and where weights are sorted in the graph, no step can raise it:
    all weights are left as they are, and `synchronise` raises when `fit` ends, for no step makes a
    NaN or an infinity finite again.
    """
    # Read outside of the branches: see `backend.cond`.
    initial = [ops.convert_to_tensor(entry.kept) for entry in permuted]
    variables = [entry.variable for entry in permuted]

    def assign_new_values() -> None:
        weights = [ops.convert_to_tensor(variable) for variable in variables]
        if not backend.allows_host_callback(variables):
            _assign(permuted, _in_graph(permuted, weights, initial))
            return
        finite = backend.host_callback(partial(_all_finite, permuted), weights, like=[due])
        done = finite
        for group in _groups(permuted):
            with backend.after(done):
                old = [ops.convert_to_tensor(variable) for variable in variables[group]]
                new_values = partial(_on_host, permuted[group])
                done = backend.host_callback(new_values, [*finite, *old, *initial[group]], like=old)
                _assign(permuted[group], done)

    backend.uncompiled(backend.cond)(due, assign_new_values, lambda: None, assigned=variables)


def _assign(permuted: Sequence[ProjectedVariable], new_values: Sequence[Any]) -> None:
    for entry, value in zip(permuted, new_values, strict=True):
        entry.variable.assign(value)


def _groups(permuted: Sequence[ProjectedVariable]) -> Iterator[slice]:
    """Cut a list of variables where a group has got `_GROUP` weights."""
    first = size = 0
    for end, entry in enumerate(permuted, start=1):
        size += math.prod(entry.variable.shape)
        if size >= _GROUP or end == len(permuted):
            yield slice(first, end)
            first, size = end, 0


def _in_graph(
    permuted: Sequence[ProjectedVariable], weights: Sequence[Any], initial: Sequence[Any]
) -> list[Any]:
    """The new values of variables; if any weight is not finite, `weights` unchanged."""
    all_finite = ops.all(ops.stack([ops.all(ops.isfinite(weight)) for weight in weights]))
    new_values = []
    for entry, weight, kept in zip(permuted, weights, initial, strict=True):
        matrix = to_matrix(weight, entry.neuron_axes, ops)
        new = entry.projection.nearest_in_graph(matrix, kept)
        new = from_matrix(new, tuple(weight.shape), entry.neuron_axes, ops)
        new_values.append(ops.where(all_finite, new, weight))
    return new_values


def _on_host(
    permuted: Sequence[ProjectedVariable], finite: Any, *arrays: np.ndarray
) -> Sequence[np.ndarray]:
    """The new values of variables whose weights, and then what is kept, are `arrays`."""
    weights, initial = arrays[: len(permuted)], arrays[len(permuted) :]
    if not finite:
        return weights
    new_values = {}
    if sum(array.size for array in weights) >= _WORTH_COMPILING:
        from laperm_lib.synchronisation.compiled import reconnect_columns

        columns = [
            number
            for number, (entry, before) in enumerate(zip(permuted, weights, strict=True))
            if type(entry.projection) is Permutations and _are_columns(before, entry.neuron_axes)
        ]
        matrices = [weights[n].reshape(-1, weights[n].shape[-1]) for n in columns]
        synchronised = reconnect_columns(matrices, [initial[n] for n in columns])
        for number, matrix in zip(columns, synchronised, strict=True):
            new_values[number] = matrix.reshape(weights[number].shape)
    for number, entry in enumerate(permuted):
        if number not in new_values:
            axes, shape = entry.neuron_axes, weights[number].shape
            new = entry.projection.nearest(to_matrix(weights[number], axes), initial[number])
            # `np.ascontiguousarray` would make shape (1,) of ().
            new_values[number] = np.asarray(from_matrix(new, shape, axes), order="C")
    return [new_values[number] for number in range(len(permuted))]


def _are_columns(weights: np.ndarray, neuron_axes: tuple[int, ...]) -> bool:
    """Whether the weight vectors are the columns of a float32 matrix, as in dense and conv."""
    return neuron_axes in ((-1,), (weights.ndim - 1,)) and weights.dtype == np.float32


def _all_finite(permuted: Sequence[ProjectedVariable], *weights: np.ndarray) -> list[np.ndarray]:
    if backend.host_callbacks_can_raise():
        _check_finite(permuted, weights)
    return [np.array(all(np.isfinite(array).all() for array in weights))]


def _check_finite(permuted: Sequence[ProjectedVariable], weights: Iterable[np.ndarray]) -> None:
    for entry, array in zip(permuted, weights, strict=True):
        if not np.isfinite(array).all():
            raise NonFiniteWeightError(
                f"'{entry.variable.path}' holds a NaN or an infinity; no weight was synchronised. "
                "Lower the learning rate or clip the gradients."
            )
