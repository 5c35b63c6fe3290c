"""Pruned weights stay pruned, and the others move as if those were not there."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from laperm_lib import sparsity, weight_vectors
from laperm_lib.constraints import keep_zeros
from laperm_lib.gradients import gradients

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, size=40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def pruned(l2=0.0):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(l2)),
        ]
    )
    sparsity.random_prune(model, 0.6, seed=0, first_layer_keep=0)
    return model


def kernels(model):
    return [ops.convert_to_numpy(vectors.variable) for vectors in weight_vectors.of(model)]


def fit(model, optimizer, **how):
    model.compile(optimizer, loss=LOSS, **how)
    model.fit(X, Y, batch_size=10, epochs=3, shuffle=False, verbose=0)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", keras.optimizers.SGD(0.1, momentum=0.9)])
@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=str)
def test_pruned_weights_stay_zero_and_the_others_learn(optimizer, how):
    model = pruned(l2=1e-2)
    start = kernels(model)
    zeros = sum((kernel == 0).sum() for kernel in start) / sum(kernel.size for kernel in start)
    assert keep_zeros(model) == pytest.approx(zeros)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = optimizer.from_config(optimizer.get_config())
    fit(model, optimizer, **how)
    for before, after in zip(start, kernels(model), strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
        assert not np.signbit(after[before == 0]).any()
        assert (before != after).sum() > 0.9 * (before != 0).sum()


def test_without_it_they_do_not():
    model = pruned()
    fit(model, "adam")
    assert all((kernel != 0).mean() > 0.9 for kernel in kernels(model))


def test_the_others_move_as_by_masked_gradients():
    """Against descent written out: w <- w - rate * (gradient * mask)."""
    model, reference = pruned(), pruned()
    keep_zeros(model)
    model.compile(keras.optimizers.SGD(0.1), loss=LOSS)
    variables = reference.trainable_variables
    masks = [np.ones(variable.shape) for variable in variables]
    for place in (0, 4):
        masks[place] = ops.convert_to_numpy(variables[place]) != 0
    for first in range(0, 40, 10):
        x, y = X[first:][:10], Y[first:][:10]
        found = gradients(reference, x, y, LOSS)
        for variable, gradient, mask in zip(variables, found, masks, strict=True):
            variable.assign_sub(0.1 * gradient * mask)
        model.train_on_batch(x, y)
    for one, other in zip(model.trainable_variables, variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-6
        )


def test_other_constraints_are_applied_first():
    model = pruned()
    kernel = model.layers[-1].kernel
    kernel.constraint = keras.constraints.MaxNorm(0.1, axis=0)
    keep_zeros(model)
    keep_zeros(model)  # again, for the zeros there are then
    fit(model, "adam")
    end = ops.convert_to_numpy(kernel)
    assert (end == 0).mean() > 0.5
    assert np.linalg.norm(end, axis=0).max() < 0.1 + 1e-5


def test_the_latest_zeros_count():
    model = pruned()
    few = keep_zeros(model)
    sparsity.random_prune(model, 0.5, seed=1, first_layer_keep=0)
    more = keep_zeros(model)
    assert more > few + 0.1
    fit(model, "adam")
    found = kernels(model)
    assert sum((k == 0).sum() for k in found) / sum(k.size for k in found) == pytest.approx(more)


def test_models_without_kernels_are_refused():
    with pytest.raises(ValueError, match="not built"):
        keep_zeros(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(ValueError, match="no kernel"):
        keep_zeros(keras.Sequential([keras.Input((2,)), layers.BatchNormalization()]))
