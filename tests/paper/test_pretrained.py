"""Network files: small, the same bits again, and refused when anything in them has changed."""

import json
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from laperm_lib import coding, permutation, storage, weight_vectors
from laperm_lib.errors import WeightFileError
from laperm_lib.paper import manifest, networks, pretrained, records
from laperm_lib.paper.networks import PaperNetwork
from laperm_lib.paper.pretrained import load_pretrained, save_pretrained
from laperm_lib.paper.verification import _contradictions

F1 = PaperNetwork(model="f1", shared_value=0.08, keep=(0.6,))
CONV7 = PaperNetwork(model="conv7", precision="mixed_bfloat16")
CONV4 = PaperNetwork(model="conv4", pruned=0.5)
KERNELS, AND_BIASES = ("kernel",), ("kernel", "bias")


def trained(network, kinds=KERNELS, seed=3):
    """A network as if trained: vectors of those kinds permuted, everything else changed."""
    generator = np.random.default_rng(0)
    model, _ = network.build(seed)
    permuted = {v.variable.path for v in weight_vectors.of(model, kinds)}
    for vectors in weight_vectors.of(model, kinds):
        matrix = generator.permuted(vectors.matrix(), axis=1)
        shape = tuple(vectors.variable.shape)
        vectors.variable.assign(permutation.from_matrix(matrix, shape, vectors.neuron_axes))
    for weight in model.weights:
        if weight.path not in permuted:
            weight.assign(generator.normal(size=tuple(weight.shape)))
    return model


def bits(model):
    return [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights]


@pytest.fixture(scope="module")
def f1_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("f1") / "f1.safetensors"
    save_pretrained(trained(F1), path, network=F1, seed=3, kinds="kernel")
    return path


@pytest.mark.parametrize(
    ("network", "kinds"), [(F1, KERNELS), (CONV7, AND_BIASES), (CONV4, KERNELS)]
)
def test_a_network_is_loaded_as_it_was_saved_and_is_near_its_bound(network, kinds, tmp_path):
    model = trained(network, kinds)
    path = tmp_path / "network.safetensors"
    save_pretrained(model, path, network=network, seed=3, kinds=kinds)
    again = load_pretrained(path)
    assert bits(again) == bits(model)
    assert again.dtype_policy == model.dtype_policy
    assert {layer.dtype_policy.name for layer in again.layers[1:-1]} == {network.precision}
    stored = pretrained.read(path)
    _, vectors = stored.start()
    bound = coding.bound_bits([each.matrix() for each in vectors])
    assert 0.99 * bound <= 8 * len(stored.code) <= 1.02 * bound
    model.save_weights(tmp_path / "network.weights.h5")
    others = sum(array.nbytes + 100 for array in stored.others.values())
    assert path.stat().st_size < bound / 8 + others + 1000
    assert path.stat().st_size < 0.6 * (tmp_path / "network.weights.h5").stat().st_size


def test_export_to_the_formats_of_keras(f1_file, tmp_path):
    model = load_pretrained(f1_file)
    model.save(tmp_path / "f1.keras")
    model.save_weights(tmp_path / "f1.weights.h5")
    whole = keras.models.load_model(tmp_path / "f1.keras")
    weights_only = networks.build("f1", seed=9)
    weights_only.load_weights(tmp_path / "f1.weights.h5")
    assert bits(whole) == bits(weights_only) == bits(model)
    save_pretrained(whole, tmp_path / "again.safetensors", network=F1, seed=3)
    assert (tmp_path / "again.safetensors").read_bytes() == f1_file.read_bytes()


def test_a_network_that_is_no_permutation_of_the_start_is_not_saved(tmp_path):
    path, f2, model = tmp_path / "f1.safetensors", PaperNetwork(model="f2"), trained(F1)

    def assert_refused(message, model=model, **how):
        with pytest.raises(ValueError, match=message):
            save_pretrained(model, path, **{"network": F1, "seed": 3, **how})

    assert_refused("dense/kernel is not a permutation of its initial", seed=4)
    assert_refused("'f1' is not the network", network=f2)
    assert_refused("Unknown kind 'kernels'", kinds=("kernels",))
    halves = networks.build("f2", seed=3, dtype="bfloat16")
    assert_refused("'f2' is not the network", halves, network=f2)
    kernel = model.weights[0]
    kernel.assign(keras.ops.abs(kernel) + 1e-6)
    assert_refused("not a permutation")
    assert not path.exists()


def test_a_file_with_any_byte_altered_or_that_ends_anywhere_else_is_refused(f1_file, tmp_path):
    content = f1_file.read_bytes()
    path = tmp_path / "damaged.safetensors"
    for size in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(WeightFileError, match=r"damaged\.safetensors"):
            load_pretrained(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(WeightFileError, match=r"damaged\.safetensors"):
        load_pretrained(path)
    for place in range(0, len(content), 3):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        if bytes(altered).split() == content.split():
            continue  # white space of the header
        path.write_bytes(altered)
        with pytest.raises(WeightFileError, match=r"damaged\.safetensors"):
            pretrained.read(path)


def test_foreign_files_are_refused(f1_file, tmp_path):
    path = tmp_path / "foreign.safetensors"

    def assert_refused(message):
        with pytest.raises(WeightFileError, match=rf"foreign\.safetensors{message}"):
            load_pretrained(path)

    assert_refused(".*no such file")
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" * 40, b"\xff" * 100, b"{}" * 50):
        path.write_bytes(content)
        assert_refused(" is damaged or no safetens")
    kernel = np.ones((784, 10), "float32")
    save_file({"dense/kernel": kernel}, path)
    assert_refused(" holds no network")
    for text in ["", "[]", "3", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000]:
        save_file({"arrangement": kernel}, path, {"laperm_lib": text})
        assert_refused(" is")
    save_file({f"empty {number}": np.zeros(0, "float32") for number in range(20_000)}, path)
    for content in (path.read_bytes(), b"\0\0\0\0\0\1\0\0" + f1_file.read_bytes()[8:]):
        path.write_bytes(content)
        assert_refused(r".*a header of \d+ bytes")  # known before it is read
    path.unlink()
    path.mkdir()
    assert_refused("")


def test_what_does_not_go_together_gives_no_network(f1_file):
    """As from a file that was made to deceive, its hash made right."""
    stored = pretrained.read(f1_file)
    stored.build()
    for wrong in (
        {"network": replace(F1, keep=(0.6, 0.6))},
        {"network": replace(F1, model="f2", keep=(0.1, 0.1, 0.1))},
        {"network": replace(F1, shared_value=0.09)},
        *({"seed": seed} for seed in (4, -1, "3")),
        *({"code": code} for code in (b"\xff" * 10_000, b"")),
        {"kinds": ()},
        {"others": {"dense/bias": np.zeros(10, "float32")}},
        {"weights_sha256": "0" * 64},
    ):
        with pytest.raises(WeightFileError):
            replace(stored, **wrong).build()


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    model = trained(CONV7)
    model.get_layer("conv2d_1").bias.assign([np.nan, *[-np.inf] * 31])
    with pytest.raises(ValueError, match="A weight of 'conv7' is NaN or infinite"):
        save_pretrained(model, path, network=CONV7, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "are_finite", lambda weights: True)
        save_pretrained(model, path, network=CONV7, seed=3)
    with pytest.raises(WeightFileError, match=r"network\.safetensors.*is NaN or infinite"):
        load_pretrained(path)


def test_a_network_that_cannot_be_is_a_damaged_file(f1_file, tmp_path):
    path = tmp_path / "wrong.safetensors"
    with safe_open(f1_file, framework="numpy") as file:
        text = file.metadata()["laperm_lib"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for wrong in (
        *({"seed": -1}, {"seed": "3"}, {"keep": 0.6}, {"speed": 1}, {"model": "conv3"}),
        *({"seed": True}, {"model": 3}, {"model": None}, {"pruned": 10**400}),
        *({"precision": name} for name in ("float3", "bfloat16", "float16", "int8", ["float32"])),
        *({"kinds": kinds} for kinds in (3, [3], [["kernel"]], "kernel", None, ["bias"])),
        *({"weights_sha256": 3}, {"set": "permutations"}, {"set": ["mask"]}, {"set": "mask"}),
    ):
        header = json.loads(text)
        del header["sha256"]
        (header if wrong.keys() <= header.keys() else header["initial"]).update(wrong)
        header["sha256"] = storage.content_hash(header, tensors)
        save_file(tensors, path, {"laperm_lib": json.dumps(header)})
        with pytest.raises(WeightFileError, match=r"wrong\.safetensors"):
            load_pretrained(path)


def test_the_shipped_networks_are_their_initial_weights_rearranged(repository):
    """On each backend: the hash of the weights is compared with that where they were trained."""
    for entry in manifest.read():
        stored = pretrained.read(manifest.locate(entry))
        assert entry.bits_per_weight <= 1.02 * entry.bound_per_weight
        assert math.isclose(8 * len(stored.code), entry.bits_per_weight * entry.permuted_weights)
        if entry.permuted_weights < 1e6:
            stored.build()
            record = records.load_one(repository / "pretrained" / f"{entry.name}.json")
            assert list(_contradictions(entry, record, stored)) == []
