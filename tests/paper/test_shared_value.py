"""Networks whose weights share one value, and the search among them."""

import importlib.util
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from laperm_lib import LaPermError, weight_vectors
from laperm_lib.paper import experiments
from laperm_lib.paper.studies import shared_value, shared_value_search
from laperm_lib.paper.studies.shared_value import Trial, train

SHORT = Trial(epochs=8, sync_period=5, value=0.2, learning_rate=0.1, batch_size=32)


def test_the_default_is_f1():
    """The same training as that of the named experiment, from a model of our own."""
    settings = replace(
        experiments.hyperparameters("f1"),
        dataset="digits",
        epochs=4,
        sync_period=5,
        evaluate_every=5,
        decay=0.95 ** (9 / 3),
    )
    run = experiments.run(settings, seed=3)
    result = train(Trial(epochs=4, sync_period=5), seed=3, hold_out=False, dataset="digits")
    assert result.test == run.final
    assert result.is_permutation
    assert result.held_out is None


@pytest.mark.parametrize(
    "changes",
    [
        {"whole": True},
        {"bias": True, "centred": True, "summed": False},
        {"hidden": (64,), "keep": (0.2, 0.4), "centred": True, "l2": 1e-4, "last_period": 2.0},
    ],
)
def test_networks_stay_permutations_and_learn(changes):
    result = train(replace(SHORT, **changes), seed=0, hold_out=True, dataset="digits")
    assert result.is_permutation
    assert result.test is None
    assert result.held_out > 0.2
    assert shared_value.from_json(shared_value.to_json(result)) == result


def test_a_whole_kernel_is_one_weight_vector():
    model = replace(SHORT, whole=True).build(seed=0)
    [vectors] = weight_vectors.of(model)
    assert vectors.matrix().shape == (1, 7840)
    assert set(np.unique(vectors.matrix())) == {np.float32(0), np.float32(0.2)}


def test_without_negative_numbers_a_network_of_any_depth_is_linear():
    trial = Trial(hidden=(128, 64), keep=(1 / 15, 1 / 7, 1 / 3), value=0.03)
    model = trial.build(seed=0)
    x = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    product = np.linalg.multi_dot([keras.ops.convert_to_numpy(w) for w in model.weights])
    logits = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(logits, x.reshape(5, -1) @ product, rtol=1e-5)
    centred = keras.ops.convert_to_numpy(model(x - 0.5))
    assert np.abs(centred - (x - 0.5).reshape(5, -1) @ product).max() > 1e-3


@pytest.mark.parametrize("wrong", [{"keep": (0.5, 0.5)}, {"epochs": 1}, {"sync_period": 0}])
def test_impossible_trials(wrong):
    with pytest.raises(ValueError, match=r"probabilities|A trial has"):
        replace(SHORT, **wrong)


def test_rates_and_periods_go_from_the_first_epoch_to_the_last():
    trial = Trial(epochs=3, learning_rate=0.01, last_rate=0.25, sync_period=10, last_period=4)
    np.testing.assert_allclose(trial.rates(), [0.01, 0.005, 0.0025])
    np.testing.assert_allclose(trial.periods(), [10, 20, 40])


def test_an_unknown_space():
    with pytest.raises(ValueError, match="Unknown space 'f3'"):
        shared_value_search.search("f3", trials=1)


@pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs Optuna")
@pytest.mark.parametrize("space", list(shared_value_search.SPACES))
def test_the_first_trial_of_each_space_is_one_of_its_trials(space):
    import optuna

    suggest, first = shared_value_search.SPACES[space]
    trial = suggest(optuna.trial.FixedTrial(first))
    assert trial.sync_period == 250
    assert trial.learning_rate == pytest.approx(1e-3)


@pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs Optuna")
def test_a_search_goes_on_where_it_was_cut(tmp_path, monkeypatch):
    trained = []

    def quick(trial, **how):
        trained.append(how["seed"])
        return shared_value.Result(trial, how["seed"], trial.value, 0.5, True)

    monkeypatch.setattr(shared_value_search, "train", quick)
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)  # there are no models
    storage = str(tmp_path / "journal")
    finals = 3 * [2000, 2001, 2002]
    shared_value_search.search("f1", trials=3, storage=storage)
    assert trained == [1000, 1001, 1002, *finals]
    trained.clear()
    study = shared_value_search.search("f1", trials=25, storage=storage)
    assert trained == [*range(1003, 1025), *finals, *finals]  # the best five and the published one
    assert study.results[0].trial in {result.trial for result in study.finalists}
    assert len(study.results) == 25
    best = max(result.trial.value for result in study.results)
    assert study.best.value == best
    assert study.held_out(study.best) == pytest.approx(best)  # a mean of three
    assert study.results[0].trial.value == 0.08
    assert sum(study.importance.values()) == pytest.approx(1, abs=1e-3)

    trained.clear()
    confirmed = shared_value_search.confirm(study, [0, 1])
    assert trained == [0, 1]
    assert {result.trial for result in confirmed.confirmed} == {study.best}
    assert confirmed.seconds >= study.seconds > 0
    assert confirmed.environment["revision"]
    shared_value_search.save(confirmed, tmp_path / "study.json")
    assert shared_value_search.load(tmp_path / "study.json") == confirmed


@pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs Optuna")
def test_a_search_cut_in_its_first_trial_does_it_again(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    trained = []

    def cut(trial, **how):
        trained.append(trial.value)
        if len(trained) == 1:
            raise Killed
        return shared_value.Result(trial, how["seed"], 0.5, None, True)

    monkeypatch.setattr(shared_value_search, "train", cut)
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)
    storage = str(tmp_path / "journal")
    with pytest.raises(Killed):
        shared_value_search.search("f1", trials=2, storage=storage)
    study = shared_value_search.search("f1", trials=3, storage=storage)
    assert trained[:2] == [0.08, 0.08]
    assert [result.trial.value for result in study.results].count(0.08) == 1
    study = shared_value_search.search("f1", trials=4, storage=storage)
    assert [result.trial.value for result in study.results].count(0.08) == 1


def test_a_search_needs_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LaPermError, match="pip install optuna"):
        shared_value_search.search("f1", trials=1)


@pytest.mark.parametrize("text", ["", "{}", '{"results": [], "confirmed": []}', "[]"])
def test_what_is_no_study(tmp_path, text):
    path = tmp_path / "study.json"
    with pytest.raises(LaPermError, match="no such file"):
        shared_value_search.load(path)
    path.write_text(text)
    with pytest.raises(LaPermError, match="does not hold a study"):
        shared_value_search.load(path)
