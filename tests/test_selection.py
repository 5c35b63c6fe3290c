"""Which variables an algorithm works on."""

import keras
import pytest
from keras import layers

from laperm_lib.optimizers.selection import Selection


@pytest.mark.parametrize(
    ("exclude", "left"),
    [("second", 4), (["first/", "^net/second"], 2), (["kernel$"], 4), ("nothing", 6)],
)
def test_what_is_excluded_by_name(exclude, left):
    first, second = (layers.Dense(3, name=name) for name in ("first", "second"))
    inner = [first, layers.BatchNormalization(name="norm"), second]
    model = keras.Sequential([keras.Input((4,)), *inner], name="net")
    everything = {"skip_bias": False, "skip_batch_norm": False}
    assert len(Selection(**everything, exclude=exclude).of_model(model)) == left
    with pytest.raises(ValueError, match="Nothing is left"):
        Selection(**everything, exclude=".").of_model(model)


def test_a_layer_that_is_excluded_need_not_be_known():
    class Own(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=shape[-1:], name="scale")

        def call(self, x):
            return x * self.scale

    model = keras.Sequential([keras.Input((2,)), Own(name="own"), layers.Dense(2, name="dense")])
    selection = Selection(skip_bias=True, skip_batch_norm=True, exclude="own")
    of_model = selection.of_model(model)
    of_variables = selection.of_variables(model.trainable_variables, model.layers)
    assert [v.path for v in of_model] == [v.path for v in of_variables] == ["dense/kernel"]


def test_a_pattern_that_is_found_nowhere_is_logged(caplog):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    selection = Selection(skip_bias=True, skip_batch_norm=True, exclude=["headd", "bias"])
    selection.of_variables(model.trainable_variables, model.layers)
    selection.of_model(model)
    assert caplog.text.count("exclude='headd' is found in none of the 2 paths: ") == 2
    assert "exclude='bias'" not in caplog.text


def test_few_of_many_paths_are_logged(caplog):
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4) for _ in range(30))])
    Selection(skip_bias=True, skip_batch_norm=True, exclude="none").of_model(model)
    assert "in none of the 60 paths" in caplog.text
    assert caplog.text.count("/kernel") < 6
