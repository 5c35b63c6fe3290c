"""The network of book/playground.md in NumPy, in double precision and written for reading."""

import numpy as np

from laperm_lib import permutation
from laperm_lib.synchronisation.projections import Masks, Permutations, Signs

PROJECTIONS = {"laperm": Permutations(), "signs": Signs(), "masks": Masks()}


def forward(x, kernels, biases):
    """The images and what they make of each layer, before ReLU; the last are the logits.

    Summed in the page's order: with two values many a sum would be 0 but for rounding, which then
    decides whether ReLU lets the gradient pass.
    """
    found = [x]
    for kernel, bias in zip(kernels, biases, strict=True):
        total = np.tile(bias, (len(x), 1))
        for column, weights in zip(np.maximum(found[-1], 0).T, kernel, strict=True):
            total += column[:, None] * weights
        found.append(total)
    return found


def gradients(x, y, kernels, biases):
    """Of the mean cross-entropy of the softmax, in the order of kernels and biases."""
    *inputs, logits = forward(x, kernels, biases)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = (powers / powers.sum(axis=1, keepdims=True) - np.eye(10)[y]) / len(x)
    of_kernels, of_biases = [], []
    for below, kernel in zip(inputs[::-1], kernels[::-1], strict=True):
        of_kernels.insert(0, np.maximum(below, 0).T @ delta)
        of_biases.insert(0, delta.sum(axis=0))
        delta = (delta @ kernel.T) * (below > 0)
    return of_kernels + of_biases


def train(method, k, rate, kernels, batches, x, y):
    """The kernels and biases after a step of Adam on each batch, and what every k steps ask for."""
    biases = [np.zeros(kernel.shape[1]) for kernel in kernels]
    variables = [kernel.copy() for kernel in kernels] + biases
    m = [np.zeros_like(each) for each in variables]
    v = [np.zeros_like(each) for each in variables]
    for step, batch in enumerate(batches, start=1):
        found = gradients(x[batch], y[batch], variables[:3], variables[3:])
        for i, gradient in enumerate(found):
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            first, second = m[i] / (1 - 0.9**step), v[i] / (1 - 0.999**step)
            # Keras has its epsilon on the square root before that is corrected.
            variables[i] -= rate * first / (np.sqrt(second) + 1e-7 / np.sqrt(1 - 0.999**step))
        if step % k == 0:
            variables[:3] = synchronised(method, variables[:3], kernels)
    return variables[:3], variables[3:]


def synchronised(method, kernels, initial):
    """The kernels that the library makes of these."""
    if method not in PROJECTIONS:
        return kernels
    projection = PROJECTIONS[method]
    return [
        projection.nearest(kernel.T.copy(), projection.keep(start.T.copy())).T
        for kernel, start in zip(kernels, initial, strict=True)
    ]


def pixels_moved(kernel, initial):
    """How far the values of a kernel of (64, neurons) lie from where they began, as `kernel`."""
    moved = np.empty_like(kernel)
    for neuron, (now, first) in enumerate(zip(kernel.T, initial.T, strict=True)):
        here, there = (np.stack(divmod(permutation.sort_order(w), 8)) for w in (now, first))
        moved[permutation.sort_order(now), neuron] = np.hypot(*(here - there))
    return moved
