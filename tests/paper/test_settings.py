"""Settings: the published ones, others by name, and the fingerprints that name run folders."""

import numpy as np
import pytest

from laperm_lib.paper.methods import SGD, Adam, Average, LaPerm, SGPerm
from laperm_lib.paper.networks import spec
from laperm_lib.paper.settings import PROFILES, PUBLISHED, fingerprint, quick, short

CONV2, F1 = PUBLISHED["conv2"], PUBLISHED["f1"]


def test_impossible_settings():
    for setting, value, why in (
        ("epochs", 0, "epochs is an integer of at least 1 and at most 35791, got 0"),
        ("evaluate_every", 0, "evaluate_every is an integer of at least 1"),
        ("held_out", -1, "held_out is an integer of at least 0"),
        ("sync_period", 0, "sync_period is an integer of at least 1"),
        ("dataset", "imagenet", "Unknown dataset 'imagenet'; there are digits, mnist, cifar10"),
        ("dataset", "mnist", "Unknown dataset 'mnist'; there are cifar10, digits"),
        ("milestones", ((-1, 0.1),), "milestones is an integer"),
        ("milestones", ((1, None),), "milestones is a number"),
        ("augmentation", 5, "augmentation takes a value of type Augmentation, got 5"),
        ("method", "adam", "method takes a value of type Method, got 'adam'"),
        ("permute_biases", "no", "permute_biases is True or False, got 'no'"),
        ("decay", 1e30, "The highest learning rate of all epochs is a number at most"),
        ("pixels", "bright", "Unknown pixels 'bright'; there are unit, raw, centred, standardised"),
        ("speed", 1, "There is no setting 'speed'; there are precision, .*sync_period"),
    ):
        with pytest.raises(ValueError, match=why):
            CONV2.replace(**{setting: value})
    for ask in PROFILES.values():
        with pytest.raises(ValueError, match=r"'f3'; there are .*f1, f1_notebook, f2"):
            ask("f3")


def test_several_settings_change_together():
    """Alone, each of them would be refused."""
    one_value = PUBLISHED["conv7"].replace(model="f1", shared_value=0.08, keep=(0.6,))
    assert one_value.network == F1.network
    assert F1.replace(shared_value=None, keep=()).network.shared_value is None
    assert CONV2.replace(model="conv7", dataset="mnist").data.dataset == "mnist"


def test_the_sync_period_chooses_the_method():
    adam = Adam(summed_loss=False)
    assert CONV2.replace(sync_period=None).method == Adam()
    assert CONV2.replace(method=adam, sync_period=20, permute_biases=True).method == LaPerm(
        sync_period=20, inner=adam, permute_biases=True
    )
    around = CONV2.replace(method=Average(around=CONV2.method, average="PSWA", sample_period=10))
    assert around.replace(sync_period=20).method.around == LaPerm(sync_period=20)
    assert CONV2.replace(sync_period=None, permute_biases=True).method == Adam()
    with pytest.raises(ValueError, match="no setting 'sync_period'"):
        CONV2.replace(method=SGPerm(), sync_period=20)


def test_every_setting_that_has_a_name_can_be_replaced():
    for settings in (CONV2, F1, CONV2.replace(method=LaPerm(sync_period=2, inner=SGD()))):
        assert settings.replace(**settings.values()) == settings
    assert CONV2.replace(summed_loss=False).method.inner == Adam(summed_loss=False)


def test_equal_settings_have_one_fingerprint_whatever_their_numbers_are():
    ours = F1.replace(learning_rate=1, epochs=np.int64(5), keep=list(F1.network.keep))
    same = F1.replace(learning_rate=1.0, epochs=5)
    assert (ours, hash(ours)) == (same, hash(same))
    assert fingerprint(ours, F1) == fingerprint(same, F1) != ""
    for settings in PUBLISHED.values():  # whose pixels are by default those of the network
        assert settings.data.pixels == spec(settings.network.model).pixels
        assert settings.replace(pixels=None) == settings
    assert len(fingerprint(CONV2.replace(pixels="standardised"), CONV2)) == 8


def test_published_settings():
    """FACTS.md's table, read again; the rates at the ends of training."""
    assert {name for name in PUBLISHED if not name.endswith("_adam")} == {
        *("conv2", "conv4", "conv7", "conv13", "f1", "f1_notebook", "f2"),
        *("resnet50", "resnet50_30", "resnet50_50", "resnet50_70"),
    }
    assert PUBLISHED["conv7"].schedule.rate(44) == pytest.approx(1e-3 * 0.95**44)
    assert PUBLISHED["conv13"].schedule.rate(124) == pytest.approx(1e-3 * 0.6**12)
    rates = [PUBLISHED["resnet50_50"].schedule.rate(e) for e in (0, 80, 81, 121, 161, 181)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 5e-7])


def rates(settings):
    return [settings.schedule.rate(epoch) for epoch in range(settings.schedule.epochs)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_profiles_end_at_the_published_rate(name):
    whole, tenth, cut_down = PUBLISHED[name], short(name), quick(name)
    assert rates(tenth)[-1] == pytest.approx(rates(whole)[-1])
    if whole.network.shared_value is not None:
        assert tenth == whole
    else:
        assert tenth.schedule.epochs * 10 <= whole.schedule.epochs + 9
        assert rates(tenth)[0] == rates(whole)[0]
    if whole.data.dataset == "cifar10":
        assert sorted(set(rates(tenth))) == pytest.approx(sorted(set(rates(whole))))
    if not whole.schedule.milestones:
        assert rates(cut_down)[-1] == pytest.approx(rates(whole)[-1])
    assert cut_down.network == whole.network
    assert (cut_down.method.period is None) == (whole.method.period is None)
