"""Where TensorFlow, JAX and PyTorch differ: the one module that asks which of them Keras runs on.

Sorting weights is many times faster in NumPy and Numba than in a backend's graph, and the cycles of
SGPerm can be searched for nowhere else. So a training step calls NumPy through a *host callback*,
where its backend allows one: not under TensorFlow's XLA, and for JAX only on the CPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras
import numpy as np
from keras import ops

# No `match` and no `:=` here: in a training loop of the user's own, AutoGraph reads this code, and
# warns of both.

Function = Callable[..., Sequence[np.ndarray]]


def name() -> str:
    """Keras's name of the backend: "tensorflow", "jax" or "torch"."""
    return keras.backend.backend()


def tensorflow() -> Any:
    """TensorFlow where it is the backend, else None."""
    return _if_backend("tensorflow")


def jax() -> Any:
    """JAX where it is the backend, else None."""
    return _if_backend("jax")


def torch() -> Any:
    """PyTorch where it is the backend, else None."""
    return _if_backend("torch")


def _if_backend(wanted: str) -> Any:
    return import_module(wanted) if name() == wanted else None


# -- devices and state -------------------------------------------------------------------------


def accelerators() -> list[str]:
    """The names of the GPUs and TPUs that the backend sees, one for each; none on a CPU alone."""
    tf = tensorflow()
    if tf is not None:
        devices = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(device) for device in devices]
        return [str(detail.get("device_name", "GPU")) for detail in details]
    if jax() is not None:
        return [device.device_kind for device in jax().devices() if device.platform != "cpu"]
    return [torch().cuda.get_device_name(n) for n in range(torch().cuda.device_count())]


def check_one_cpu_device(name: str) -> None:
    """Refuse, before training starts, devices on which no step can call NumPy for an optimizer."""
    if keras.distribution.distribution() is not None:
        raise ValueError(f"{name} trains on one device, not under a keras.distribution.")
    tf = tensorflow()
    if tf is not None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(f"{name} trains on one device, not under a tf.distribute strategy.")
    if jax() is not None and jax().default_backend() != "cpu":
        raise ValueError(
            f"{name} permutes weights on the CPU, and with the JAX backend it can train only "
            "there: set JAX_PLATFORMS=cpu, or KERAS_BACKEND=tensorflow or torch."
        )
    if jax() is not None and not _has_buffer_callback():
        raise ValueError(f"With the JAX backend, {name} needs JAX 0.6.1 or later.")


def outside_graph() -> AbstractContextManager[Any]:
    """A context in which variables have values, also while TensorFlow traces a training step."""
    tf = tensorflow()
    return nullcontext() if tf is None else tf.init_scope()


def have_values(variables: Sequence[Any]) -> bool:
    """Whether variables hold values: JAX's `fit` takes them away, for good if a step raises."""
    if jax() is None:
        return True
    arrays = [variable._value for variable in variables]
    return all(array is not None and not array.is_deleted() for array in arrays)


def reattach(model: keras.Model) -> None:
    """Give a model in `fit` or `evaluate` its state back, which JAX keeps apart meanwhile."""
    if jax() is not None:
        model.jax_state_sync()


# -- inside a training step --------------------------------------------------------------------


def cond(
    condition: Any, first: Callable[[], Any], second: Callable[[], Any], *, assigned: Sequence[Any]
) -> None:
    """Take one of two branches, which assign variables: `assigned` names all that they do.

    Of the variables whose values a step changes, JAX's branches may read only these.
    """
    tf = tensorflow()
    if tf is not None and not tf.executing_eagerly():
        tf.cond(condition, first, second)
    elif jax() is not None:
        _cond_on_jax(condition, first, second, assigned)
    else:
        taken = first if condition else second
        taken()


def _cond_on_jax(
    condition: Any, first: Callable[[], Any], second: Callable[[], Any], assigned: Sequence[Any]
) -> None:
    def values_after(branch: Callable[[], Any]) -> list[Any]:
        with keras.StatelessScope(list(zip(assigned, before, strict=True))) as scope:
            branch()
        return [scope.get_current_value(variable) for variable in assigned]

    # JAX's conditionals are functions: return new values from the branches, assign outside.
    before = [ops.convert_to_tensor(variable) for variable in assigned]
    after = jax().lax.cond(condition, lambda: values_after(first), lambda: values_after(second))
    for variable, value in zip(assigned, after, strict=True):
        variable.assign(value)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch's compiler leaves alone: it can take in no NumPy, no branch on data."""
    return function if torch() is None else torch().compiler.disable(function)


def unconverted(function: Any) -> Any:
    """Mark a function that AutoGraph leaves alone: a user's `tf.function` rewrites all it calls.

    `do_not_convert` does so too, for whom has imported TensorFlow.
    """
    function.autograph_info__ = {}
    return function


def allows_host_callback(variables: Sequence[Any]) -> bool:
    """Whether a step can call NumPy on these variables where they are, without copying them."""
    tf = tensorflow()
    if tf is not None:
        on_cpu = not tf.config.list_physical_devices("GPU")
        return tf.executing_eagerly() or (on_cpu and not is_compiled_by_xla())
    if jax() is not None:
        return jax().default_backend() == "cpu" and _has_buffer_callback()
    return all(variable.value.device.type == "cpu" for variable in variables)


def host_callback(function: Function, arrays: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """Call a NumPy function on tensors, inside a training step or outside.

    It takes an array for each of `arrays`, which it must not write to, and returns one for each of
    `like`, of the same shapes and dtypes. What it raises ends the training, on TensorFlow as an
    InvalidArgumentError; on JAX it must not raise, for the step would lose its state.
    """
    if jax() is not None:
        return _host_callback_on_jax(function, arrays, like)
    tf = tensorflow()
    if tf is None or tf.executing_eagerly():
        return uncompiled(_directly)(function, arrays)
    if is_compiled_by_xla():
        raise ValueError(
            "TensorFlow's XLA supports no host callback, which permuting weights needs here: "
            "compile the model with jit_compile=False."
        )
    results = tf.numpy_function(function, arrays, [tensor.dtype for tensor in like])
    for result, tensor in zip(results, like, strict=True):
        result.set_shape(tensor.shape)
    return results


def _directly(function: Function, arrays: Sequence[Any]) -> list[Any]:
    results = function(*map(ops.convert_to_numpy, arrays))
    return [ops.convert_to_tensor(result) for result in results]


def _host_callback_on_jax(
    function: Function, arrays: Sequence[Any], like: Sequence[Any]
) -> list[Any]:
    from jax.experimental.buffer_callback import buffer_callback

    def into_buffers(_: Any, results: Any, *buffers: Any) -> None:
        for result, value in zip(results, function(*map(np.asarray, buffers)), strict=True):
            np.asarray(result)[...] = value

    # JAX's other callbacks copy the arrays with JAX, which can wait for itself on few cores.
    shapes = [jax().ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in like]
    return buffer_callback(into_buffers, shapes, vmap_method="sequential")(*arrays)


def host_callbacks_can_raise() -> bool:
    """Whether an error in a host callback leaves the state of the training as it was."""
    return jax() is None


def after(tensors: Sequence[Any]) -> AbstractContextManager[Any]:
    """A context whose operations TensorFlow runs once these tensors are there."""
    tf = tensorflow()
    return nullcontext() if tf is None else tf.control_dependencies(tensors)


def is_compiled_by_xla() -> bool:
    """Whether the TensorFlow function being traced, or one around it, has jit_compile=True."""
    graph: Any = tensorflow().compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        if context is not None and context.GetControlPivot is not None and context.IsXLAContext():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def _has_buffer_callback() -> bool:
    """Whether JAX has what a host callback needs: experimental, new in 0.6.1, and it may go."""
    return find_spec("jax.experimental.buffer_callback") is not None


# -- tensor operations that Keras lacks --------------------------------------------------------


def stable_argsort(keys: Any) -> Any:
    """Stable argsort of every row; `keras.ops.argsort` does not promise to be stable."""
    tf = tensorflow()
    if tf is not None:
        return tf.argsort(keys, axis=-1, stable=True)
    if jax() is not None:
        return jax().numpy.argsort(keys, axis=-1, stable=True)
    return torch().argsort(keys, dim=-1, stable=True)


def scattered(order: Any, values: Any) -> Any:
    """new[order] = values in every row; `keras.ops.scatter` would add to zeros, which loses -0."""
    tf = tensorflow()
    if tf is not None:
        rows = tf.broadcast_to(tf.range(tf.shape(order)[0])[:, None], tf.shape(order))
        return tf.tensor_scatter_nd_update(values, tf.stack([rows, order], -1), values)
    if jax() is not None:
        return jax().numpy.put_along_axis(values, order, values, axis=-1, inplace=False)
    return torch().empty_like(values).scatter_(-1, order, values)


def gradients_of(function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
    """The derivatives of a scalar function of a list of tensors, at these."""
    tf = tensorflow()
    if tf is not None:
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result = function(values)
        return tape.gradient(result, values, unconnected_gradients="zero")
    if jax() is not None:
        return jax().grad(function)(values)
    leaves = [value.detach().clone().requires_grad_() for value in values]
    # Dropout may draw from torch's own generator, whose state is to stay.
    with torch().enable_grad(), torch().random.fork_rng():
        result = function(leaves)
    return list(torch().autograd.grad(result, leaves, allow_unused=True, materialize_grads=True))
