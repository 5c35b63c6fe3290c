"""Pruned weights that stay pruned while another optimizer than LaPerm trains the network.

LaPerm conserves the number of zeros by sorting, and lets them move. Adam or SGD move every weight,
pruned or not. Keras gives each variable a constraint that every optimizer applies behind its step,
inside the compiled program and on every backend; here it sets the pruned weights to zero again.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from laperm_lib import weight_vectors


def keep_zeros(model: keras.Model) -> float:
    """Make the kernel weights that are zero now stay zero through training.

    Call it after pruning and before the first training step. A constraint that a kernel has already
    is applied first. Optimizers that treat each weight by itself (SGD, momentum, Adam, ...) move
    the others as if the pruned weights were not there; clipping by a norm over several weights sees
    their gradients.

    It is a property of the variables and is not saved with the model: call it again after loading.
    Not for networks trained by LaPerm, which moves zeros to other places, nor by SGPerm, which
    applies no constraints.

    Args:
        model: a built model.

    Returns:
        The share of kernel weights that are kept at zero, 0 to 1.

    Raises:
        ValueError: if the model is not built or has no kernel.
        UnknownLayerError: if the kernels of a layer are not known.

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[1.0], [0.0]])])
        >>> keep_zeros(model)
        0.5
        >>> model.compile("adam", loss="mse")
        >>> history = model.fit(np.ones((8, 2)), np.ones((8, 1)), verbose=0)
        >>> [value != 0 for value in model.get_weights()[0].ravel().tolist()]
        [True, False]
    """
    kernels = [vectors.variable for vectors in weight_vectors.of(model)]
    if not kernels:
        raise ValueError(f"'{model.name}' has no kernel.")
    masks = [ops.convert_to_numpy(kernel) != 0 for kernel in kernels]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.constraint = _Masked(mask, kernel.constraint)
    zeros = sum(mask.size - np.count_nonzero(mask) for mask in masks)
    return float(zeros / sum(mask.size for mask in masks))


class _Masked(keras.constraints.Constraint):
    """Zero where a mask is False, and what another constraint gives elsewhere."""

    def __init__(self, mask: np.ndarray, first: Any) -> None:
        # A tensor, which TensorFlow's graph takes as an input: a constant it would write out.
        self._mask = ops.convert_to_tensor(mask)
        # Of an earlier call only what came before it: this mask holds its zeros too.
        self._first: Any = first._first if isinstance(first, _Masked) else first

    def __call__(self, w: Any) -> Any:
        w = ops.convert_to_tensor(w if self._first is None else self._first(w))
        # Not mask * w, which turns a negative weight into -0.0.
        return ops.where(self._mask, w, ops.zeros_like(w))
