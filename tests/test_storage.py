"""Anybody's network as a permutation of its base."""

import builtins

import keras
import numpy as np
import pytest

import laperm_lib
from laperm_lib import coding, permutation, storage, weight_vectors
from laperm_lib.errors import WeightFileError
from laperm_lib.storage import load_permutation, save_permutation


def network(seed=0, width=40):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((12, 6)),
            keras.layers.Conv1D(width, 3),
            keras.layers.BatchNormalization(),
            keras.layers.GRU(16),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(8, kernel_initializer="he_uniform"),
        ]
    )


def permuted(seed=0):
    """A network as if trained: kernels permuted, the rest changed, but one layer left alone."""
    rng = np.random.default_rng(seed)
    model = network()
    left = {id(weight) for weight in model.layers[2].weights}
    for each in weight_vectors.of(model):
        if id(each.variable) not in left:
            matrix = rng.permuted(each.matrix(), axis=1)
            shape = tuple(each.variable.shape)
            each.variable.assign(permutation.from_matrix(matrix, shape, each.neuron_axes))
            left.add(id(each.variable))
    for weight in model.weights:
        if id(weight) not in left:
            weight.assign(rng.normal(size=tuple(weight.shape)))
    return model


def bits(model):
    return [array.tobytes() for array in model.get_weights()]


@pytest.fixture
def stored(tmp_path):
    path, model = tmp_path / "trained.safetensors", permuted()
    save_permutation(model, path, network())
    return path, model


def test_a_network_is_loaded_into_its_base_and_costs_its_arrangement(stored):
    path, model = stored
    base = network()
    assert load_permutation(path, base) is base
    assert bits(base) == bits(model)
    moved = [network().layers[0].kernel, network().layers[-1].kernel]
    start = [permutation.to_matrix(keras.ops.convert_to_numpy(kernel), (-1,)) for kernel in moved]
    _, tensors = storage.read(path, dict)
    code = tensors.pop(storage.CODE)
    assert 8 * len(code) <= coding.bound_bits(start) + 9
    free = [*model.layers[1].weights, model.layers[0].bias, model.layers[-1].bias]
    assert sorted(map(np.size, tensors.values())) == sorted(np.prod(each.shape) for each in free)


def test_a_network_that_is_its_base_costs_nothing(tmp_path):
    save_permutation(network(), tmp_path / "same.safetensors", network())
    assert bits(load_permutation(tmp_path / "same.safetensors", network())) == bits(network())
    assert (tmp_path / "same.safetensors").stat().st_size < 600


def test_a_base_may_be_a_file_of_keras(stored, tmp_path):
    path, model = stored
    network().save(tmp_path / "base.keras")
    assert bits(load_permutation(path, str(tmp_path / "base.keras"))) == bits(model)
    save_permutation(model, tmp_path / "again.safetensors", tmp_path / "base.keras")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_trained_network_beside_its_seed(tmp_path):
    model = network()
    model.compile(laperm_lib.LaPerm(keras.optimizers.Adam(0.1), 2, exclude=["gru"]), loss="mse")
    model.fit(np.ones((8, 12, 6)), np.eye(8), batch_size=4, epochs=2, verbose=0)
    path = tmp_path / "trained.safetensors"
    laperm_lib.save_permutation(model, path, network())
    assert bits(laperm_lib.load_permutation(path, network())) == bits(model)


def test_what_cannot_be_stored_is_refused_and_a_kernel_stored_whole_is_named(tmp_path, caplog):
    path, model = tmp_path / "no.safetensors", permuted()
    with pytest.raises(ValueError, match="not the same network"):
        save_permutation(model, path, network(width=41))
    with pytest.raises(ValueError, match=r"No kernel .* is a permutation of its base's"):
        save_permutation(network(seed=1), path, network())
    spoilt = permuted()
    spoilt.layers[1].gamma.assign(np.full(40, np.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        save_permutation(spoilt, path, network())
    assert not any(tmp_path.iterdir())
    assert not caplog.records
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)
    save_permutation(model, path, network())
    [message] = [record.getMessage() for record in caplog.records]
    assert message.endswith("/kernel is no permutation of its base's and is stored whole.")
    assert bits(load_permutation(path, network())) == bits(model)


def test_another_base_or_a_damaged_file_changes_nothing(stored):
    path, _ = stored
    other = network(seed=1)
    before = bits(other)
    for base in (other, network(width=41)):
        with pytest.raises(WeightFileError, match="beside another base"):
            load_permutation(path, base)
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(WeightFileError, match=r"trained\.safetensors"):
            load_permutation(path, network())
    path.unlink()
    with pytest.raises(WeightFileError, match="no such file"):
        load_permutation(path, other)
    assert bits(other) == before


def test_safetensors_is_asked_for_when_it_is_needed(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install"):
        save_permutation(permuted(), tmp_path / "no.safetensors", network())
