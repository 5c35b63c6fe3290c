"""LaPerm with latent weights: the model holds their permuted image after every step."""

import keras
import numpy as np
import pytest
from keras import ops
from small_network import assert_same_weights, build_model, matrices, train
from test_laperm import EXECUTIONS, RecordSynchronised

from laperm_lib import LaPerm, permutation, weight_vectors

STEPS = 12


def given_gradients(model):
    rng = np.random.default_rng(3)
    return [
        [rng.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
        for _ in range(STEPS)
    ]


@pytest.mark.parametrize("sync_period", [1, 3])
@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_the_image_is_that_of_weights_that_the_inner_optimizer_trains_alone(inner, sync_period):
    model, free = build_model(), build_model()
    optimizer, alone = LaPerm(inner, sync_period, latent_weights=True), keras.optimizers.get(inner)
    start = [np.sort(v.matrix(), axis=1) for v in weight_vectors.of(model)]
    expected = [v.matrix() for v in weight_vectors.of(model)]
    for step, gradients in enumerate(given_gradients(model), start=1):
        tensors = list(map(ops.convert_to_tensor, gradients))
        optimizer.apply(tensors, model.trainable_variables)
        alone.apply(tensors, free.trainable_variables)
        if step % sync_period == 0:
            latent = [v.matrix() for v in weight_vectors.of(free)]
            expected = list(map(permutation.reconnect, latent, start))
        for vectors, image in zip(weight_vectors.of(model), expected, strict=True):
            np.testing.assert_array_equal(vectors.matrix(), image)
        np.testing.assert_array_equal(  # what is not permuted
            ops.convert_to_numpy(model.get_layer("bn").gamma),
            ops.convert_to_numpy(free.get_layer("bn").gamma),
        )
        assert optimizer.is_permutation()


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_the_network_is_a_permutation_after_every_step(execution):
    seen, model = RecordSynchronised(), build_model()
    start = matrices(model)
    train(model, LaPerm("adam", 2, latent_weights=True), callbacks=[seen], **execution)
    together = execution.get("steps_per_execution", 1)
    assert len(seen.steps) == -(-9 // together)
    assert all(not np.array_equal(start[path], now) for path, now in matrices(model).items())


def test_weights_that_are_assigned_move_the_latent_ones_as_far():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    kernel = model.layers[0].kernel
    kernel.assign([[0.0], [1.0], [2.0], [3.0]])
    optimizer = LaPerm(keras.optimizers.SGD(1.0), 1, latent_weights=True)

    def step(*gradient):
        optimizer.apply([ops.convert_to_tensor(np.array([gradient], "float32").T)], [kernel])
        return ops.convert_to_numpy(kernel)[:, 0].tolist()

    assert step(0, 0, -0.75, 0) == [0, 1, 2, 3]  # latent: 0, 1, 2.75, 3
    kernel.assign([[1.0], [0.0], [2.0], [3.0]])  # latent: 1, 0, 2.75, 3
    assert step(0, 0, -0.5, 0) == [1, 0, 3, 2]  # latent: 1, 0, 3.25, 3


def test_training_goes_on_exactly_after_saving(tmp_path):
    model = build_model()
    train(model, LaPerm("adam", 2, latent_weights=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.latent_weights
    for each in (model, loaded):
        train(each, None)
    assert_same_weights(model, loaded)


def test_a_word_is_no_truth_value():
    with pytest.raises(ValueError, match="latent_weights is True or False, got 'no'"):
        LaPerm("adam", 1, latent_weights="no")
