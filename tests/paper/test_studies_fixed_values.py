"""The same network within each set of its initial values."""

import numpy as np

from laperm_lib.paper.records import load
from laperm_lib.paper.studies import fixed_values
from laperm_lib.paper.studies.fixed_values import METHODS, settings


def quick(start, method, rate=0.01):
    return settings(start, method, rate).replace(dataset="digits", held_out=200, epochs=1)


def test_changes_and_bits_are_measured():
    signs = fixed_values.train(quick("he_2_levels", "signs, latent", 0.05), seed=0)
    assert signs.measured["bits"] == 1
    assert 0 < signs.measured["changed"] < 0.5
    permuted = fixed_values.train(quick("he_2_levels", "permutation, latent"), seed=0)
    assert 0.9 < permuted.measured["bits"] < 1
    adam = fixed_values.train(quick("he_2_levels", "Adam"), seed=0)
    assert adam.measured["changed"] > 0.9
    assert "bits" not in adam.measured


def test_rates_are_chosen_on_images_held_out_and_then_seeds_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(fixed_values, "settings", quick)
    monkeypatch.setattr(fixed_values, "STARTS", ("he_2_levels",))
    monkeypatch.setattr(fixed_values, "METHODS", {"masks": METHODS["masks, latent"]})
    monkeypatch.setattr(fixed_values, "RATES", (1e-6, 1e-2))
    fixed_values.write(tmp_path, verbose=0)
    trials, chosen = load(tmp_path / "trials.json"), load(tmp_path / "chosen.json")
    better = max(trials, key=lambda record: record.final_held_out).settings
    assert len(trials) == 2
    assert [record.settings for record in chosen] == [better] * 3
    assert [record.seed for record in chosen] == [1, 2, 3]
    assert np.ptp([record.final for record in chosen]) > 0
