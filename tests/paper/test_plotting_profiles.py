"""Weight profiles: each weight vector is its sorted line, or many are quantile bands."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.collections import LineCollection, PolyCollection

from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper import plotting


@pytest.fixture
def model():
    """Two kernels, of 5 vectors of 9 weights and of 3 vectors of 80."""
    conv, dense = keras.layers.Conv2D(5, 3, name="conv"), keras.layers.Dense(3, name="dense")
    return keras.Sequential(
        [keras.Input((6, 6, 1)), conv, keras.layers.Flatten(name="flat"), dense]
    )


def heights_of(ax):
    """The y of each line, and a check of its x."""
    (collection,) = (each for each in ax.collections if isinstance(each, LineCollection))
    lines = np.array(collection.get_segments())
    assert (lines[:, 0, 0] == 0).all()
    assert (lines[:, -1, 0] == 1).all()
    assert (np.diff(lines[:, :, 0]) > 0).all()
    return lines[:, :, 1]


def bands_of(ax):
    return [each for each in ax.collections if isinstance(each, PolyCollection)]


matrices = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)


@given(hnp.arrays("float32", matrices, elements=st.floats(-1e6, 1e6, width=32)))
def test_each_vector_is_one_sorted_line_within_view(matrix):
    ax = plotting.vector_profile(matrix)
    expected = np.sort(matrix, axis=1) if matrix.shape[1] > 1 else np.repeat(matrix, 2, axis=1)
    np.testing.assert_array_equal(heights_of(ax), expected)
    low, high = ax.get_ylim()
    assert low <= matrix.min()
    assert high >= matrix.max()
    plt.close(ax.figure)


def test_long_vectors_are_thinned_with_both_ends_kept():
    vector = np.random.default_rng(1).normal(size=(1, 4608))
    (heights,) = heights_of(plotting.vector_profile(vector))
    assert len(heights) == 512
    assert heights[[0, -1]].tolist() == [vector.min(), vector.max()]
    assert np.isin(heights, vector).all()


def test_bands_hold_all_90_and_50_percent_of_more_than_256_vectors():
    matrix = np.random.default_rng(3).normal(size=(257, 16))
    few = plotting.vector_profile(matrix[:256])
    assert (bands_of(few), list(few.lines)) == ([], [])
    ax = plotting.vector_profile(matrix)
    sorted_rows = np.sort(matrix, axis=1)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(sorted_rows, axis=0))
    quantiles = [(0, 1), (0.05, 0.95), (0.25, 0.75)]
    for band, (low, high) in zip(bands_of(ax), quantiles, strict=True):
        vertices = band.get_paths()[0].vertices
        for rank in range(16):
            at_rank = vertices[np.isclose(vertices[:, 0], rank / 15), 1]
            assert at_rank.min() == pytest.approx(np.quantile(sorted_rows[:, rank], low))
            assert at_rank.max() == pytest.approx(np.quantile(sorted_rows[:, rank], high))


def test_anything_but_a_matrix_is_refused():
    for shape in ((3,), (2, 3, 4), (0, 3), (3, 0)):
        with pytest.raises(ValueError, match=r"one weight vector per row|empty"):
            plotting.vector_profile(np.zeros(shape))
    assert plt.get_fignums() == []


def test_model_gets_a_panel_per_kernel(model):
    figure = plotting.weight_profile(model)
    assert [ax.get_title() for ax in figure.axes] == ["conv/kernel: 5 × 9", "dense/kernel: 3 × 80"]
    kernels = [model.get_layer(name).get_weights()[0] for name in ("conv", "dense")]
    for ax, kernel in zip(figure.axes, kernels, strict=True):
        vectors = kernel.reshape(-1, kernel.shape[-1]).T
        np.testing.assert_array_equal(heights_of(ax), np.sort(vectors, axis=1))


def test_panels_stand_beside_each_other_the_stored_order_to_the_left(model):
    stored, in_order = plotting.weight_profile(model.get_layer("dense"), as_stored=True).axes
    vectors = model.get_layer("dense").get_weights()[0].T
    np.testing.assert_array_equal(heights_of(stored), vectors)
    np.testing.assert_array_equal(heights_of(in_order), np.sort(vectors, axis=1))
    assert stored.get_title().endswith("as stored")
    assert stored.get_ylim() == in_order.get_ylim()
    assert stored.get_position().x0 < in_order.get_position().x0
    # The grid of many wraps, and leaves no panel empty.
    layers = [keras.layers.Dense(2) for _ in range(5)]
    figure = plotting.weight_profile(keras.Sequential([keras.Input((2,)), *layers]))
    assert len(figure.axes) == 5
    figure.canvas.draw()
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes}) == 2


def test_a_layer_without_kernel_and_a_non_finite_weight_are_named(model):
    with pytest.raises(ValueError, match="'flat' has no kernel"):
        plotting.weight_profile(model.get_layer("flat"))
    weights = model.get_weights()
    weights[2][0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(NonFiniteWeightError, match="dense/kernel"):
        plotting.weight_profile(model)
    assert plt.get_fignums() == []


def test_frozen_kernels_unknown_layers_and_equal_names():
    """A small ConvNeXt, frozen, and the layers that two attention layers have inside them."""
    inputs = keras.Input((32, 32, 3))
    convnext = keras.applications.ConvNeXtTiny
    base = convnext(weights=None, include_top=False, input_tensor=inputs, pooling="avg")
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(2, name="head")])
    panels = plotting.weight_profile(model, exclude=r"stage_[0-3]").axes
    assert [ax.get_title() for ax in panels][-1] == "head/kernel: 2 × 768"
    assert len(panels) == 5
    x = y = keras.Input((4, 6))
    for _ in range(2):
        y = keras.layers.MultiHeadAttention(2, 3)(y, y)
    titles = [ax.get_title() for ax in plotting.weight_profile(keras.Model(x, y)).axes]
    assert titles.count("query/kernel: 6 × 6") == 2
    assert len(titles) == 8
