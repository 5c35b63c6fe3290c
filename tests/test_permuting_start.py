"""When LaPerm and SGPerm take the initial values: at the first step, whatever came before it."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_network import (
    LOSS,
    X,
    Y,
    assert_permuted,
    assert_same_weights,
    both,
    build_model,
    dtype_policy,
    laperm,
    matrices,
    train,
)

from laperm_lib import NonFiniteWeightError, SGPerm, permutation, sparsity


class Start(keras.callbacks.Callback):
    """Keeps the kernels as they are when the first step begins, or after `change` has acted."""

    def __init__(self, change=lambda model: None):
        super().__init__()
        self.change = change

    def on_train_begin(self, logs=None):
        self.change(self.model)
        self.kernels = matrices(self.model)


class Late(keras.Model):
    """A model whose layers have no weights before they are called."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize(
    ("make", "kind", "execution"),
    [
        (laperm, "sequential", {}),
        (laperm, "subclass", {}),
        (laperm, "inside of another", {"run_eagerly": True}),
        (SGPerm, "sequential", {"run_eagerly": True}),
        (SGPerm, "inside of another", {}),
    ],
)
def test_a_model_that_its_first_fit_builds(make, kind, execution):
    initializer = keras.initializers.GlorotUniform(seed=3)
    if kind == "subclass":
        model = Late()
        model.parts[-1].kernel_initializer = initializer
    else:
        inside = [layers.Flatten(), layers.Dense(3, kernel_initializer=initializer)]
        model = keras.Sequential([keras.Sequential(inside)] if "inside" in kind else inside)
    optimizer = make()
    train(model, optimizer, **execution)
    kernel = [v for v in model.trainable_variables if v.name == "kernel"][-1]
    start, end = (ops.convert_to_numpy(w).T for w in (initializer(tuple(kernel.shape)), kernel))
    assert_permuted({"kernel": start}, {"kernel": end})
    assert int(optimizer.iterations) == 9


def by_file(model, path):
    model.save(path)
    return keras.models.load_model(path)


def by_config(model, _):
    other = build_model(seed=5)
    other.compile_from_config(model.get_compile_config())
    other.set_weights(model.get_weights())
    return other


ROUTES = {
    "m.keras": by_file,
    "m.h5": by_file,
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "compile_from_config": by_config,
}


@pytest.mark.parametrize(
    ("make", "route"),
    [*((laperm, route) for route in ROUTES), (SGPerm, "m.keras"), (SGPerm, "deepcopy")],
)
@pytest.mark.filterwarnings("ignore:Skipping variable loading", "ignore:.*HDF5.*")
def test_a_copy_starts_from_its_own_weights_and_a_trained_one_keeps_its_start(
    make, route, tmp_path
):
    model = build_model()
    sparsity.random_prune(model, 0.5, seed=0)
    model.compile(make(), loss=LOSS)
    model.evaluate(X, Y, verbose=0)
    other = ROUTES[route](model, tmp_path / route)
    start = matrices(other)
    train(other, None)
    assert_permuted(start, matrices(other))
    assert (start["dense/kernel"] == 0).any()
    again = ROUTES[route](other, tmp_path / route)
    train(again, None)
    assert_permuted(start, matrices(again))


@both
@pytest.mark.parametrize("execution", [{}, {"jit_compile": True}], ids=str)
def test_weights_that_change_before_the_first_step(make, execution):
    if execution and make is SGPerm and keras.backend.backend() == "tensorflow":
        pytest.skip("SGPerm has no step that XLA compiles")
    if execution and keras.backend.backend() == "torch":
        pytest.skip("torch has no XLA")
    model, other = build_model(), build_model(seed=4)
    model.compile(make(), loss=LOSS, **execution)
    model.evaluate(X, Y, verbose=0)
    begin = Start(lambda model: sparsity.random_prune(model, 0.5, seed=1))
    model.set_weights(other.get_weights())
    train(model, None, epochs=2, callbacks=[begin])
    assert_permuted(begin.kernels, matrices(model))
    # And only then: what changes later is not the start any more.
    if make is laperm:
        kernels = matrices(model)
        train(model, None, callbacks=[Start(lambda model: model.set_weights(other.get_weights()))])
        assert_permuted(kernels, matrices(model))


@both
@pytest.mark.parametrize("frozen_first", [True, False])
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_layers_frozen_or_unfrozen_since_they_were_saved(make, frozen_first, tmp_path):
    model = build_model()
    model.get_layer("conv").trainable = not frozen_first
    start = matrices(model)
    train(model, make())
    model.get_layer("conv").trainable = frozen_first
    model.compile(model.optimizer, loss=model.loss)  # the saved set is that of the optimizer
    model.save(tmp_path / "m.keras")
    if not frozen_first:  # a variable too many says nothing
        loaded = keras.models.load_model(tmp_path / "m.keras")
        assert loaded.optimizer._is_captured
    else:
        with pytest.warns(UserWarning, match=r"perm was saved without conv/kernel"):
            loaded = keras.models.load_model(tmp_path / "m.keras")
        with pytest.raises(ValueError, match="No initial values yet"):
            loaded.optimizer._require_captured()
    start |= {path: now for path, now in matrices(loaded).items() if path not in start}
    train(loaded, None)
    for path, end in matrices(loaded).items():
        assert permutation.is_permutation(start[path], end)
    if make is laperm:
        assert loaded.optimizer.is_permutation()


@both
def test_loaded_under_another_dtype_policy(make, tmp_path):
    model = build_model()
    train(model, make())
    start = matrices(model)
    model.save_weights(tmp_path / "m.weights.h5")
    with dtype_policy("mixed_bfloat16"):
        other = build_model(seed=6)
    optimizer = make()
    other.compile(optimizer, loss=LOSS)
    optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "m.weights.h5")
    train(other, None)
    end = matrices(other)
    assert all(permutation.is_permutation(start[path], end[path]) for path in start)


@both
def test_a_state_of_another_shape_is_refused(make):
    store, optimizer, other = {}, make(), make()
    train(build_model(), optimizer)
    optimizer.save_own_variables(store)
    other.build(build_model(filters=5).trainable_variables)
    with pytest.raises(ValueError, match=r"conv_kernel_(sorted|recomm).* was saved with the shape"):
        other.load_own_variables(store)
    assert not other._is_captured


@both
def test_a_state_saved_before_there_were_flags_counts_as_captured(make):
    optimizer, other = make(), make()
    model, resumed = build_model(), build_model(seed=1)
    train(model, optimizer)
    variables = [v for v in optimizer.variables if v is not optimizer._captured]
    store = {str(n): ops.convert_to_numpy(variable) for n, variable in enumerate(variables)}
    resumed.set_weights(model.get_weights())
    other.build(resumed.trainable_variables)
    other.load_own_variables(store)
    train(model, None)
    train(resumed, other)
    assert_same_weights(model, resumed)


def test_nothing_is_a_permutation_before_there_is_a_start():
    optimizer, model = laperm(), build_model()
    for build in (lambda: None, lambda: optimizer.build(model.trainable_variables)):
        build()
        for ask in (optimizer.is_permutation, optimizer.synchronise, lambda: optimizer.last_sync):
            with pytest.raises(ValueError, match="No initial values yet"):
                ask()


@both
@pytest.mark.parametrize("execution", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_a_nan_at_the_start_stops_the_training_and_nothing_is_permuted(make, execution):
    backend = keras.backend.backend()
    if execution == {"jit_compile": True} and (backend == "torch" or make is SGPerm):
        pytest.skip("no such step")
    model = build_model()
    values = matrices(model)["dense/kernel"].T.copy()
    values[3, 1] = np.nan
    model.get_layer("dense").kernel.assign(values)
    conv = matrices(model)["conv/kernel"]
    optimizer, error = make(exclude=["conv"] if make is laperm else ()), NonFiniteWeightError
    if backend == "tensorflow" and not execution:
        import tensorflow as tf

        error = tf.errors.InvalidArgumentError
    with pytest.raises(error, match=r"initial values of '.*dense/kernel' hold a NaN"):
        train(model, optimizer, **execution)
    if backend != "jax":  # whose fit takes the model's values away if it fails
        assert not optimizer._is_captured
        if make is SGPerm:
            np.testing.assert_array_equal(matrices(model)["conv/kernel"], conv)
