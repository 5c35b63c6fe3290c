"""Networks whose weights share one value: they learn by rewiring, and a search."""

import importlib.util
import itertools
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_runs import made

from laperm_lib import LaPermError, weight_vectors
from laperm_lib.errors import NonFiniteWeightError
from laperm_lib.paper import manifest, records, verification
from laperm_lib.paper.methods import Adam, LaPerm
from laperm_lib.paper.networks import DenseNetwork
from laperm_lib.paper.pretrained import load_pretrained
from laperm_lib.paper.records import Record
from laperm_lib.paper.settings import PUBLISHED, Data, Schedule, Settings
from laperm_lib.paper.studies import shared_value
from laperm_lib.paper.studies.shared_value import SPACES, confirm, expected_best, fan_in, search
from laperm_lib.paper.training import run

F1 = DenseNetwork(keep=(0.6,), shared_value=0.2)
SHORT = Settings(
    network=F1,
    data=Data(dataset="digits", held_out=200),
    method=LaPerm(sync_period=5),
    schedule=Schedule(epochs=8, batch_size=32, learning_rate=0.1, decay=0.95),
    evaluate_every=10**9,
)
QUICK = shared_value.SETTINGS.replace(dataset="digits", epochs=30, held_out=200, evaluate_every=60)
needs_optuna = pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs Optuna")


def values(model):
    """The different values of all kernels together."""
    return np.unique(np.concatenate([kernel.ravel() for kernel in model.get_weights()]))


# -- the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "hidden"), [("f1", ()), ("f2", (128, 64))])
def test_the_networks_of_the_paper_are_among_them(name, hidden):
    paper = PUBLISHED[name].network
    ours = DenseNetwork(hidden=hidden, keep=paper.keep, shared_value=paper.shared_value)
    (model, report), (other, theirs) = ours.build(3), paper.build(3)
    assert all(map(np.array_equal, model.get_weights(), other.get_weights()))
    assert report.fraction_pruned == theirs.fraction_pruned
    x = np.random.default_rng(0).normal(size=(5, 28, 28, 1)).astype("float32")
    assert np.array_equal(*(keras.ops.convert_to_numpy(each(x)) for each in (model, other)))


@pytest.mark.parametrize(
    "changes",
    [
        {"whole": True},
        {"bias": True, "pixels": "centred", "inner": Adam(summed_loss=False)},
        {"network": DenseNetwork(hidden=(64,), keep=(0.2, 0.4), shared_value=0.2, l2=1e-4)}
        | {"pixels": "centred", "last_period": 2.0},
    ],
)
def test_networks_stay_permutations_and_learn(changes):
    record = run(SHORT.replace(**changes), seed=0)
    assert record.is_permutation
    assert record.final_held_out > 0.2
    assert not record.evaluations
    assert records.from_json(records.to_json(record), Record) == record


def test_a_whole_kernel_is_one_weight_vector():
    model, _ = DenseNetwork(keep=(0.6,), shared_value=0.2, whole=True).build(0)
    [vectors] = weight_vectors.of(model)
    assert vectors.matrix().shape == (1, 7840)
    np.testing.assert_array_equal(values(model), np.float32([0, 0.2]))


def test_a_fan_in_is_that_of_the_mask_and_constant_if_asked_for():
    f2 = PUBLISHED["f2"]
    by_chance = fan_in(f2, seed=1)
    assert all(layer.min() < layer.max() for layer in by_chance)
    sizes = zip(by_chance, (784, 128, 64), strict=True)
    kept = [layer.sum() / (layer.size * inputs) for layer, inputs in sizes]
    assert kept == pytest.approx(f2.network.keep, abs=0.06)
    constant = fan_in(f2.replace(constant_fan_in=True), seed=1)
    assert [set(layer.tolist()) for layer in constant] == [{52}, {18}, {21}]


# -- the best of several masks --------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_the_expected_best_is_the_mean_over_all_choices(accuracies, data):
    count = data.draw(st.integers(1, len(accuracies)))
    bests = [max(choice) for choice in itertools.combinations(accuracies, count)]
    assert expected_best(accuracies, count) == pytest.approx(np.mean(bests), abs=1e-12)


def test_the_expected_best_of_hundreds():
    accuracies = np.random.default_rng(0).random(300)
    bests = [expected_best(accuracies, count) for count in (1, 2, 150, 300)]
    assert bests == sorted(bests)
    assert (bests[0], bests[-1]) == (pytest.approx(np.mean(accuracies)), max(accuracies))
    for count in (0, 301, -1, 2.0):
        with pytest.raises(ValueError, match="Of 300 trials"):
            expected_best(accuracies, count)


# -- the network that comes with the project ------------------------------------------------------


def test_a_wide_network_learns_by_rewiring_and_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_value, "SETTINGS", QUICK)
    entry = shared_value.write(tmp_path, seeds=(3,))
    record = records.load_one(tmp_path / "one_value.json")
    assert (record.settings, record.seed, record.is_permutation) == (QUICK, 3, True)
    assert record.final > 0.8
    model = load_pretrained(tmp_path / entry.file)
    np.testing.assert_array_equal(values(model), np.float32([0, 0.13]))
    assert [each.name for each in manifest.read(tmp_path)] == [entry.name] == ["one_value-seed3"]
    assert entry.bits_per_weight < 1
    assert verification.verify(entry.name, tmp_path).problems == ()


def test_the_shipped_network_is_one_of_the_recorded_ones(repository):
    np.testing.assert_array_equal(values(load_pretrained("one_value")), np.float32([0, 0.13]))
    found = records.load(repository / "pretrained" / "one_value.json")
    assert all(record.is_permutation and record.final > 0.9 for record in found)
    assert manifest.find("one_value").name == f"one_value-seed{found[0].seed}"


# -- the search -----------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """The values and seeds trained with; the accuracy of a training is its value."""
    found = []

    def train(settings, seed, experiment, data_dir):
        value = settings.network.shared_value
        found.append((value, seed))
        return replace(made("f1"), settings=settings, seed=seed, final_held_out=value)

    monkeypatch.setattr(shared_value, "_train", train)
    return found


@needs_optuna
@pytest.mark.parametrize("space", SPACES)
def test_the_first_trial_of_each_space_is_one_of_its_trials(space):
    import optuna

    suggest, first = SPACES[space]
    settings = suggest(optuna.trial.FixedTrial(first))
    assert settings.method == LaPerm(sync_period=250)
    assert settings.schedule.learning_rate == pytest.approx(1e-3)
    if space in ("f1", "f2"):
        published = PUBLISHED[space]
        assert settings.schedule.rate(9) == pytest.approx(published.schedule.rate(9))
        for name in ("keep", "shared_value", "pixels", "epochs", "batch_size", "sync_period"):
            assert settings.values()[name] == pytest.approx(published.values()[name]), name


@needs_optuna
def test_a_search_resumes_where_it_was_interrupted(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(shared_value, "_TRIALS_FOR_IMPORTANCE", 8)

    def seeds():
        found = [seed for _, seed in trained]
        trained.clear()
        return found

    storage = str(tmp_path / "journal")
    finals = 3 * [2000, 2001, 2002]
    search("f1", trials=3, storage=storage)
    assert seeds() == [1000, 1001, 1002, *finals]
    study = search("f1", trials=8, storage=storage)
    assert seeds() == [*range(1003, 1008), *finals, *finals]  # the best five and the published one
    assert len(study.results) == 8
    assert study.results[0].settings in {record.settings for record in study.finalists}
    assert study.results[0].settings.network.shared_value == 0.08
    assert all(record.final is None for record in (*study.results, *study.finalists))
    best = max(record.final_held_out for record in study.results)
    assert study.best.network.shared_value == best
    assert study.held_out(study.best) == pytest.approx(best)  # a mean of three
    assert study.best.data.held_out == 10_000
    assert sum(study.importance.values()) == pytest.approx(1, abs=1e-3)

    confirmed = confirm(study, [0, 1])
    assert seeds() == [0, 1]
    assert {r.settings for r in confirmed.confirmed} == {study.best.replace(held_out=0)}
    assert confirmed.seconds >= study.seconds > 0
    assert confirmed.environment["revision"]
    shared_value.save(confirmed, tmp_path / "study.json")
    assert shared_value.load(tmp_path / "study.json") == confirmed


@needs_optuna
def test_a_search_interrupted_in_its_first_trial_does_it_again(tmp_path, trained, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    storage = str(tmp_path / "journal")
    with monkeypatch.context() as patch:
        patch.setattr(shared_value, "_train", killed)
        with pytest.raises(KeyboardInterrupt):
            search("f1", trials=2, storage=storage)
    for trials in (3, 4):
        study = search("f1", trials=trials, storage=storage)
        tried = [record.settings.network.shared_value for record in study.results]
        assert tried.count(0.08) == 1
    assert trained[0][0] == 0.08


@needs_optuna
def test_a_trial_that_diverges_does_not_end_the_search(trained, monkeypatch):
    train = shared_value._train

    def diverging(settings, seed, *rest):
        if seed == 1001:
            raise NonFiniteWeightError
        return train(settings, seed, *rest)

    monkeypatch.setattr(shared_value, "_train", diverging)
    assert [record.seed for record in search("f1", trials=3).results] == [1000, 1002]


@needs_optuna
def test_a_storage_whose_last_line_a_kill_has_cut_off_is_mended(tmp_path, trained, caplog):
    path = tmp_path / "journal"
    search("f1", trials=1, storage=path)
    whole = path.read_bytes()
    for cut in (b"{", b'{"op_code":8,"worker_id":"a","trial'):
        path.write_bytes(whole + cut)
        assert len(search("f1", trials=1, storage=path).results) == 1
        assert path.read_bytes().startswith(whole)
        assert f"{path}: the last line" in caplog.text
        caplog.clear()
    assert len(search("f1", trials=2, storage=path).results) == 2
    assert not list(tmp_path.glob("*.lock"))


@needs_optuna
@pytest.mark.parametrize(
    "content",
    [
        *(b"words\n", b"words", b'{"a": 1}\n', b"[]\n", b"SQLite format 3\0\n\0", bytes(99)),
        *(b'{"op_code":99,"worker_id":""}\n', b'{"op_code":4}\n{"op', b"\n", b"\xff\xfe\n", None),
    ],
)
def test_a_storage_of_another_program_is_refused_and_left_alone(tmp_path, trained, content):
    import optuna

    path = tmp_path / "journal"
    if content is None:
        journal = optuna.storages.journal.JournalFileBackend(str(path))
        optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name="theirs")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"journal does not hold searches of this kind: ."):
        search("f1", trials=1, storage=path)
    assert (path.read_bytes(), trained) == (before, [])
    assert list(tmp_path.iterdir()) == [path]


@needs_optuna
def test_a_search_that_cannot_be():
    for wrong, why in (
        ({"dataset": "cifar10"}, "Unknown dataset 'cifar10'; there are mnist, digits"),
        ({"trials": 0}, "trials is an integer of at least 1"),
        ({"storage": "/dev/null"}, "/dev/null does not hold searches"),
        ({"space": "f3"}, "Unknown space 'f3'"),
    ):
        with pytest.raises(ValueError, match=why):
            search(**{"space": "f1", "trials": 1, **wrong})


def test_what_is_not_there_or_no_study(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="2 probabilities for 1 layers"):
        DenseNetwork(keep=(0.5, 0.5), shared_value=0.2)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"optuna.*laperm-lib\[search\]"):
        search("f1", trials=1)
    path = tmp_path / "study.json"
    with pytest.raises(LaPermError, match="no such file"):
        shared_value.load(path)
    for text in ("", "{}", '{"results": [], "confirmed": []}', "[]"):
        path.write_text(text)
        with pytest.raises(LaPermError, match="does not hold a study"):
            shared_value.load(path)
