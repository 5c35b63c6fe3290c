"""Networks of the same capacity: as many active weights in each layer, of the same values."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from keras import layers, ops

from laperm_lib import weight_vectors
from laperm_lib.paper.studies.same_capacity_networks import Architecture, fill_sparsely


def kernels(model):
    return [ops.convert_to_numpy(vectors.variable) for vectors in weight_vectors.of(model)]


@hypothesis_settings(max_examples=15)
@given(
    st.lists(st.integers(1, 4), max_size=2),
    st.lists(st.integers(1, 6), max_size=2),
    st.integers(1, 4),
    st.integers(0, 2**64),
    st.booleans(),
)
def test_each_layer_has_the_values_of_the_dense_one(filters, units, factor, seed, rescaled):
    narrow = Architecture(filters=tuple(filters), units=tuple(units), batch_norm=True)
    dense = narrow.build((13, 13, 1), seed=seed)
    wide = narrow.widened(factor).build((13, 13, 1), seed=seed)
    assert len(kernels(wide)) == len(filters) + len(units) + 1
    report = fill_sparsely(wide, dense, seed=seed, rescaled=rescaled)
    for number, (one, other) in enumerate(zip(kernels(dense), kernels(wide), strict=True)):
        last = number == len(report.layers) - 1
        scale = np.float32(factor**0.5 if rescaled and not last else 1)
        np.testing.assert_array_equal(np.sort(other[other != 0]), np.sort(one.ravel() * scale))
        entry = report.layers[number]
        assert (entry.kept, entry.total) == (one.size, other.size)


def test_places_depend_on_the_seed_and_are_spread_evenly():
    narrow = Architecture(units=(40, 40))
    dense = narrow.build((20, 20, 1), seed=0)
    masks = []
    for seed in (0, 0, 1):
        wide = narrow.widened(4).build((20, 20, 1), seed=0)
        fill_sparsely(wide, dense, seed=seed)
        masks.append([kernel != 0 for kernel in kernels(wide)])
    assert all(np.array_equal(a, b) for a, b in zip(masks[0], masks[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(masks[0], masks[2], strict=True))
    first = masks[0][0]  # 400 x 160, of which one quarter is active
    for axis in (0, 1):
        shares = first.mean(axis=axis)
        expected = np.sqrt(0.25 * 0.75 / first.shape[axis])
        assert 0.7 * expected < shares.std() < 1.3 * expected


def test_rescaled_the_inputs_of_a_layer_are_as_large_as_in_the_dense_network():
    narrow = Architecture(units=(200, 200), activation="relu")
    dense = narrow.build((16, 16, 1), seed=0)
    x = np.random.default_rng(0).uniform(-1, 1, (300, 16, 16, 1)).astype("float32")

    def variance(model):
        inner = keras.Model(model.inputs[0], model.get_layer("dense_1").output)
        return float(np.var(ops.convert_to_numpy(inner(x))))

    variances = {}
    for rescaled in (False, True):
        wide = narrow.widened(4).build((16, 16, 1), seed=0)
        fill_sparsely(wide, dense, seed=0, rescaled=rescaled)
        variances[rescaled] = variance(wide)
    assert variances[True] == pytest.approx(variance(dense), rel=0.15)
    # As published, each of the two layers has a quarter of the inputs.
    assert variances[False] == pytest.approx(variance(dense) / 16, rel=0.2)


def test_nothing_but_kernels_changes_and_nothing_at_all_on_errors():
    narrow = Architecture(units=(8,), batch_norm=True, activation="prelu")
    dense, wide = narrow.build((4, 4, 1), seed=0), narrow.widened(2).build((4, 4, 1), seed=0)
    others = {v.path: ops.convert_to_numpy(v) for v in wide.variables if "kernel" not in v.path}
    before = wide.get_weights()
    for smaller, larger, message in (
        (wide, dense, "do not go into 'dense/kernel'"),
        (replace(narrow, units=(8, 8)).build((4, 4, 1), seed=0), wide, "3 kernels do not go"),
    ):
        start = larger.get_weights()
        with pytest.raises(ValueError, match=message):
            fill_sparsely(larger, smaller, seed=0)
        for one, other in zip(start, larger.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="seed"):
        fill_sparsely(wide, dense, seed=-1)
    fill_sparsely(wide, dense, seed=0)
    assert any((a != b).any() for a, b in zip(before, wide.get_weights(), strict=True))
    for variable in wide.variables:
        if variable.path in others:
            np.testing.assert_array_equal(others[variable.path], ops.convert_to_numpy(variable))


def test_architectures_are_what_they_say():
    shape = Architecture(filters=(3,), units=(5,), activation="prelu", batch_norm=True, l2=0.5)
    model = shape.build((13, 13, 1), seed=0)
    assert [type(layer) for layer in model.layers] == [
        layers.Conv2D,
        *(layers.BatchNormalization, layers.PReLU, layers.Flatten),
        layers.Dense,
        *(layers.BatchNormalization, layers.PReLU),
        layers.Dense,
    ]
    penalty = sum(0.5 * (kernel**2).sum() for kernel in kernels(model))
    measured = ops.convert_to_numpy(sum(model.losses))
    assert float(measured) == pytest.approx(penalty, rel=1e-5)
    slopes = [v for v in model.trainable_variables if v.name == "alpha"]
    assert [int(np.prod(v.shape)) for v in slopes] == [3, 5]
    assert all((ops.convert_to_numpy(v) == 0.25).all() for v in slopes)
    assert not any(v.name == "bias" for v in model.variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": (0,)}, "filters and units"),
        ({"activation": "tanh"}, "relu, swish or prelu"),
        ({"l2": -1.0}, "l2 is a number at least 0"),
    ],
)
def test_bad_architectures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**change)
