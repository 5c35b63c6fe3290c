import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import FancyArrowPatch

from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper import plotting


def small_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(5, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def lines_of(ax):
    (collection,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return collection.get_segments()


def bands_of(ax):
    return [c for c in ax.collections if isinstance(c, PolyCollection)]


# --- vector_profile ------------------------------------------------------------------------------


@given(
    hnp.arrays(
        "float32",
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_each_vector_is_one_sorted_line(matrix):
    ax = plotting.vector_profile(matrix)
    lines = lines_of(ax)
    assert len(lines) == len(matrix)
    for line, vector in zip(lines, matrix, strict=True):
        x, y = line.T
        expected = np.sort(vector) if len(vector) > 1 else np.repeat(vector, 2)
        np.testing.assert_array_equal(y, expected)
        assert x[0] == 0
        assert x[-1] == 1
        assert (np.diff(x) > 0).all()
    plt.close(ax.figure)


def test_presorted_lines_keep_the_stored_order():
    matrix = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    lines = lines_of(plotting.vector_profile(matrix, presorted=True))
    np.testing.assert_array_equal([line[:, 1] for line in lines], matrix)


def test_lines_are_within_view():
    ax = plotting.vector_profile(np.array([[-40.0, 60.0, 10.0]]))
    low, high = ax.get_ylim()
    assert low <= -40
    assert high >= 60


def test_long_vectors_are_thinned_with_both_ends_kept():
    vector = np.random.default_rng(1).normal(size=(1, 4608))
    (line,) = lines_of(plotting.vector_profile(vector))
    assert len(line) == plotting.MAX_POINTS
    assert line[0, 1] == vector.min()
    assert line[-1, 1] == vector.max()
    assert np.isin(line[:, 1], vector).all()


@pytest.mark.parametrize(("extra", "drawn_as_lines"), [(0, True), (1, False)])
def test_many_vectors_become_bands(extra, drawn_as_lines):
    count = plotting.MAX_LINES + extra
    ax = plotting.vector_profile(np.random.default_rng(2).normal(size=(count, 9)))
    assert bool(bands_of(ax)) is not drawn_as_lines
    assert bool(ax.lines) is not drawn_as_lines


def test_bands_hold_all_90_and_50_percent_of_4096_vectors():
    matrix = np.random.default_rng(3).normal(size=(4096, 16))
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


def test_draws_on_the_given_axes():
    figure, ax = plt.subplots()
    assert plotting.vector_profile(np.eye(2), ax=ax) is ax
    assert figure.axes == [ax]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3), (3, 0)])
def test_anything_but_a_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"one weight vector per row|empty"):
        plotting.vector_profile(np.zeros(shape))
    assert plt.get_fignums() == []


# --- weight_profile ------------------------------------------------------------------------------


def test_model_gets_a_panel_per_kernel():
    model = small_model()
    figure = plotting.weight_profile(model)
    assert [ax.get_title() for ax in figure.axes] == ["conv/kernel: 5 × 9", "dense/kernel: 3 × 80"]
    conv, dense = (
        np.asarray(layer.get_weights()[0]) for layer in (model.layers[0], model.layers[2])
    )
    np.testing.assert_array_equal(
        [line[:, 1] for line in lines_of(figure.axes[0])], np.sort(conv.reshape(9, 5).T, axis=1)
    )
    np.testing.assert_array_equal(
        [line[:, 1] for line in lines_of(figure.axes[1])], np.sort(dense.T, axis=1)
    )


def test_presorted_view_stands_beside_the_sorted_one():
    model = small_model()
    figure = plotting.weight_profile(model.layers[2], presorted=True)
    stored, in_order = figure.axes
    dense = np.asarray(model.layers[2].get_weights()[0])
    np.testing.assert_array_equal([line[:, 1] for line in lines_of(stored)], dense.T)
    np.testing.assert_array_equal(
        [line[:, 1] for line in lines_of(in_order)], np.sort(dense.T, axis=1)
    )
    assert stored.get_ylim() == in_order.get_ylim()
    assert stored.get_position().x0 < in_order.get_position().x0


def test_grid_wraps_and_leaves_no_empty_panel():
    layers = [keras.layers.Dense(2, name=f"layer{i}") for i in range(5)]
    figure = plotting.weight_profile(keras.Sequential([keras.Input((2,)), *layers]))
    assert len(figure.axes) == 5
    figure.canvas.draw()
    heights = [round(ax.get_position().y0, 3) for ax in figure.axes]
    assert len(set(heights)) == 2


def test_other_kinds_can_be_drawn():
    figure = plotting.weight_profile(small_model(), kinds=("bias",))
    assert [ax.get_title() for ax in figure.axes] == ["conv/bias: 1 × 5", "dense/bias: 1 × 3"]


def test_layer_without_such_weights_is_refused():
    layer = keras.layers.Flatten(name="flat")
    layer.build((None, 2, 2))
    with pytest.raises(ValueError, match="'flat' has no trainable kernel"):
        plotting.weight_profile(layer)


def test_kinds_are_named_as_they_were_given():
    layer = keras.layers.Dense(2, use_bias=False, name="dense")
    layer.build((None, 2))
    for kinds, words in [
        ("bias", "no trainable bias to draw"),
        (iter(["bias", "normalization"]), "no trainable bias or normalization to draw"),
        ("biases", "Unknown kind 'biases'"),
    ]:
        with pytest.raises(ValueError, match=words):
            plotting.weight_profile(layer, kinds=kinds)


def test_non_finite_weight_is_named_and_nothing_is_drawn():
    model = small_model()
    weights = model.get_weights()
    weights[2][0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(NonFiniteWeightError, match="dense/kernel"):
        plotting.weight_profile(model)
    assert plt.get_fignums() == []


# --- permutation_trace ---------------------------------------------------------------------------


@given(st.permutations(range(7)), st.lists(st.integers(-2, 2), min_size=7, max_size=7))
def test_lines_lead_each_value_to_its_place(order, values):
    before = np.array(values, "float32")
    after = before[np.array(order)]
    ax = plotting.permutation_trace(before, after)
    lines = lines_of(ax)
    starts, ends = (
        np.array([line[0, 0] for line in lines]),
        np.array([line[1, 0] for line in lines]),
    )
    np.testing.assert_array_equal(starts, np.arange(7))
    assert sorted(ends) == list(range(7))
    np.testing.assert_array_equal(after[ends.astype(int)], before)
    # Equal values keep their order, so their lines do not cross.
    for value in set(values):
        assert (np.diff(ends[before == value]) > 0).all()
    plt.close(ax.figure)


def test_rows_are_labelled():
    ax = plotting.permutation_trace(np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    labels = {tick.get_text(): tick.get_position()[1] for tick in ax.get_yticklabels()}
    assert labels == {"before": 1, "after": 0}
    assert {line[0, 1] for line in lines_of(ax)} == {1}


def arrows_of(ax):
    """Start and end (x, y) of each arrow, shape (arrows, 2, 2)."""
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    # Matplotlib has no public way to read back where an arrow goes.
    return np.array([arrow._posA_posB for arrow in arrows]).reshape(-1, 2, 2)


def test_arrows_lead_each_value_of_an_image_to_its_place():
    before = np.arange(12, dtype="float32").reshape(3, 4)
    after = np.random.default_rng(4).permutation(before.ravel()).reshape(3, 4)
    ax = plotting.permutation_trace(before, after)
    arrows = arrows_of(ax)
    assert len(arrows) == (before != after).sum()
    for (x0, y0), (x1, y1) in arrows:
        assert after[y1, x1] == before[y0, x0]
    np.testing.assert_array_equal(ax.images[0].get_array(), after)


def test_arrows_stay_within_the_columns_of_a_dense_kernel():
    # Taken as one vector, the ones would change columns.
    before = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    after = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    arrows = arrows_of(plotting.permutation_trace(before, after, neuron_axes=(-1,)))
    assert len(arrows) > 0
    np.testing.assert_array_equal(arrows[:, 0, 0], arrows[:, 1, 0])


def test_nothing_moved_draws_no_arrow():
    assert len(arrows_of(plotting.permutation_trace(np.eye(3), np.eye(3)))) == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.0, 2.0], [1.0, 3.0], "not a permutation"),
        ([0.0, 1.0], [-0.0, 1.0], "not a permutation"),
        ([1.0, 1.0, 2.0], [1.0, 2.0, 2.0], "not a permutation"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "differ"),
        (np.ones(2, "float32"), np.ones(2, "float64"), "differ"),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1)), "one or two dimensions"),
        ([], [], "no weights"),
        ([np.nan, 1.0], [1.0, np.nan], "NaN"),
    ],
)
def test_what_is_no_permutation_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        plotting.permutation_trace(before, after)
    assert plt.get_fignums() == []


def test_values_that_changed_columns_are_refused():
    before = np.array([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="not a permutation"):
        plotting.permutation_trace(before, before[:, ::-1].copy(), neuron_axes=(-1,))


# --- training_curves -----------------------------------------------------------------------------


def history(epochs, **metrics):
    made = keras.callbacks.History()
    made.epoch, made.history = list(epochs), metrics
    return made


def test_one_run_is_its_line():
    ax = plotting.training_curves({"Adam": {"val_accuracy": [0.1, 0.4, 0.3]}})
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [0.1, 0.4, 0.3])
    assert ax.get_legend_handles_labels()[1] == ["Adam"]
    assert bands_of(ax) == []


def test_several_runs_are_their_mean_in_the_band_of_all():
    runs = [history(range(2), loss=[4.0, 2.0]), {"loss": [2.0, 1.0]}, {"loss": [3.0, 0.0]}]
    ax = plotting.training_curves({"f1": runs, "f2": {"loss": [9.0, 9.0]}}, metric="loss")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [3.0, 1.0])
    (band,) = bands_of(ax)
    vertices = band.get_paths()[0].vertices
    assert [vertices[:, 1].min(), vertices[:, 1].max()] == [0.0, 4.0]
    assert ax.get_legend_handles_labels()[1] == ["f1 (3 runs)", "f2"]


def test_a_continued_training_starts_where_it_was():
    ax = plotting.training_curves({"more": history([3, 4], val_accuracy=[0.5, 0.6])})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [4, 5])


def test_a_single_epoch_is_visible():
    ax = plotting.training_curves({"short": {"val_accuracy": [0.5]}})
    assert ax.lines[0].get_marker() == "o"


def test_twelve_curves_can_be_told_apart():
    ax = plotting.training_curves({str(i): {"val_accuracy": [0, i]} for i in range(12)})
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 12


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "no history"),
        ({"a": []}, "'a' has no runs"),
        ({"a": {"loss": [1.0]}}, r"'a' has no metric 'val_accuracy', only \['loss'\]"),
        ({"a": [{"val_accuracy": [1]}, {"val_accuracy": [1, 2]}]}, "same epochs"),
    ],
)
def test_histories_that_do_not_fit_are_refused(histories, message):
    with pytest.raises(ValueError, match=message):
        plotting.training_curves(histories)
    assert plt.get_fignums() == []


def test_global_settings_are_left_alone():
    before = matplotlib.rcParams.copy()
    plotting.weight_profile(small_model(), presorted=True)
    plotting.permutation_trace(np.eye(2), np.eye(2))
    plotting.training_curves({"a": {"val_accuracy": [1, 2]}})
    assert matplotlib.rcParams == before


def test_the_style_of_the_book_has_the_colours_of_the_library():
    with plt.style.context("laperm_lib.paper.plotting.book"):
        styled = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    own = sns.color_palette("colorblind")
    assert len(styled) == len(own)
    assert all(map(matplotlib.colors.same_color, styled, own))
