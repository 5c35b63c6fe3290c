"""Methods: each makes the optimizer that its settings describe."""

import keras
import numpy as np
import pytest
from small_network import build_model

import laperm_lib
from laperm_lib.callbacks import PSWA, Lookahead
from laperm_lib.paper.methods import (
    SGD,
    Adam,
    Average,
    EpochRates,
    LaPerm,
    Length,
    SGPerm,
    Triangle,
)

LENGTH = Length(EpochRates([0.1, 0.1, 0.05], 10), 3, 10, batch_size=50, seed=7)


def test_rates_are_one_for_each_epoch():
    rates = EpochRates([0.1, 0.05], 5)
    assert [float(rates(step)) for step in (0, 4, 5, 1000)] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rates))
    assert again.get_config() == rates.get_config()
    with pytest.raises(ValueError, match="no rates"):
        EpochRates([], 5)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        EpochRates([1.0], 0)


@pytest.mark.parametrize("method", [Adam(keep_zeros=True), SGD(momentum=0.9, keep_zeros=True)])
def test_zeros_are_kept_while_weights_change(method):
    model = build_model()
    kernel = model.get_layer("dense").kernel
    pruned = keras.ops.convert_to_numpy(kernel) * (np.arange(3) > 0)
    kernel.assign(pruned)
    Average(around=method, average="PSWA", sample_period=5).prepare(model)
    optimizer = method.optimizer(LENGTH)
    optimizer.apply(
        [keras.ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables
    )
    after = keras.ops.convert_to_numpy(kernel)
    np.testing.assert_array_equal(after == 0, pruned == 0)
    assert not np.any(after[:, 1:] == pruned[:, 1:])


def test_optimizers_are_as_their_methods_say():
    assert Adam().optimizer(LENGTH).epsilon == 1e-7 / 50  # that of a summed loss
    assert Adam(summed_loss=False).optimizer(LENGTH).epsilon == 1e-7
    method = LaPerm(sync_period=4, inner=SGD(momentum=0.5), permute_biases=True)
    optimizer = method.optimizer(LENGTH)
    assert isinstance(optimizer, laperm_lib.LaPerm)
    config = optimizer.get_config()
    assert (config["sync_period"], config["skip_bias"]) == (4, False)
    assert config["inner_optimizer"]["config"]["momentum"] == 0.5
    # A period grows geometrically to its last.
    config = LaPerm(sync_period=4, last_period=4.0).optimizer(LENGTH).get_config()
    assert config["sync_period"]["config"]["rates"] == pytest.approx([4, 8, 16])
    with pytest.raises(ValueError, match="last_period is a number above 0"):
        LaPerm(sync_period=4, last_period=0.0)
    config = SGPerm(beta1=0.999).optimizer(LENGTH).get_config()
    assert (config["beta1"], config["seed"]) == (0.999, 7)
    assert config["momentum_learning_rate"]["config"]["rates"] == LENGTH.rates.rates


@pytest.mark.parametrize(("average", "callback"), [("PSWA", PSWA), ("Lookahead", Lookahead)])
def test_an_average_is_a_callback_around_a_method(average, callback):
    around = Average(around=LaPerm(sync_period=4), average=average, sample_period=5)
    assert (around.period, around.permuted) == (4, ("kernel",))
    (made,) = around.callbacks([np.zeros((1, 6, 6, 2))])
    assert isinstance(made, callback)
    assert made.sample_period == 5
    with pytest.raises(ValueError, match="Unknown average 'EMA'; there are PSWA, Lookahead"):
        Average(around=Adam(), average="EMA", sample_period=5)


def test_a_triangle_is_highest_at_its_peak_and_never_negative():
    rates = Triangle(0.5, peak_step=3, steps=10)
    values = [float(rates(step)) for step in range(12)]
    assert values[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert values[3:] == pytest.approx([0.5 * (10 - step) / 7 for step in range(3, 11)] + [0])
    assert Triangle.from_config(rates.get_config())(5) == rates(5)
