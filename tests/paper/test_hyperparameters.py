"""Settings that no run could have are refused before anything is made."""

from dataclasses import replace

import numpy as np
import pytest

from laperm_lib.paper import experiments
from laperm_lib.paper import networks as models
from laperm_lib.paper.experiments.hyperparameters import fingerprint, from_json, to_json

CONV2, F1 = experiments.PUBLISHED["conv2"], experiments.PUBLISHED["f1"]


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("epochs", 0, "epochs is an integer of at least 1, got 0"),
        ("epochs", True, "epochs is an integer"),
        ("held_out", -1, "held_out is an integer of at least 0"),
        ("sync_period", 2.5, "sync_period is an integer"),
        ("pruned", 1.5, "pruned is a number at least 0 and at most 1, got 1.5"),
        ("learning_rate", float("nan"), "learning_rate is a number"),
        ("model", "conv3", "Unknown model 'conv3'"),
        ("dataset", "imagenet", "Unknown dataset 'imagenet'; there are digits, mnist, cifar10"),
        ("dataset", "mnist", "Unknown dataset 'mnist'; there are cifar10, digits"),
        ("milestones", ((-1, 0.1),), "the epoch of a milestone is an integer"),
        ("milestones", ((1, None),), "the factor of a milestone is a number"),
        ("keep", (0.5,), "together or not at all"),
        ("pixels", "bright", "Unknown pixels 'bright'; there are unit, raw, centred, standardised"),
        ("initializer", "zeros", "Unknown initializer 'zeros'"),
        ("precision", "float8", "Unknown precision 'float8'; there are float32, mixed_bfloat16"),
    ],
)
def test_impossible_settings(setting, value, why):
    with pytest.raises(ValueError, match=why):
        replace(CONV2, **{setting: value})


def test_a_shared_value_says_itself_what_is_pruned():
    with pytest.raises(ValueError, match="pruned is 0"):
        replace(F1, pruned=0.5)
    with pytest.raises(ValueError, match="together or not at all"):
        replace(F1, keep=())
    with pytest.raises(ValueError, match="keep is a number at least 0 and at most 1"):
        replace(F1, keep=(0.5, 3))


def test_nothing_or_all_may_be_pruned():
    assert [replace(CONV2, pruned=share).pruned for share in (0, 1)] == [0, 1]


def test_equal_settings_have_one_fingerprint_whatever_their_numbers_are():
    published = experiments.PUBLISHED["f1"]
    ours = replace(published, learning_rate=1, epochs=np.int64(5), keep=list(published.keep))
    same = replace(published, learning_rate=1.0, epochs=5)
    assert ours == same
    assert fingerprint(ours, published) == fingerprint(same, published)
    assert hash(ours) == hash(same)


def test_pixels_are_by_default_those_of_the_network_by_name():
    for name, settings in experiments.PUBLISHED.items():
        own = models.spec(settings.model).pixels
        assert settings.pixels == own
        assert fingerprint(replace(settings, pixels=None), settings) == "", name
        assert fingerprint(replace(settings, pixels=own), settings) == "", name
    standardised = replace(CONV2, pixels="standardised")
    assert len(fingerprint(standardised, CONV2)) == 8
    assert from_json(to_json(standardised)) == standardised
    of_an_old_record = {k: v for k, v in to_json(CONV2).items() if k != "pixels"}
    assert from_json(of_an_old_record) == CONV2
