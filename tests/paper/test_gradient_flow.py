"""The study of gradient flow: what is tested, what is called a finding, records that go on."""

import json
from dataclasses import replace

import pytest

from laperm_lib.errors import LaPermError
from laperm_lib.paper.studies import gradient_flow as study
from laperm_lib.paper.studies.same_capacity import Result
from laperm_lib.paper.studies.signed_rank import Comparison

SEEDS = range(6)


def result(trial, seed, accuracy=0.9, flow=1.0):
    """A result with so much flow, of three kernels, behind a first measurement that counts not."""
    return Result(
        trial,
        seed,
        accuracy=accuracy,
        active=(1, 2, 3),
        steps=(0, 10),
        norms=((9.0, 9.0, 9.0), (3 * flow, 2 * flow, flow)),
        effective=((9.0, 9.0, 9.0), (flow, flow, flow)),
    )


def made_up(name, accuracy=lambda **features: 0.9, flow=lambda **features: 1.0):
    """Results of a study, each of the two a function of the features, with a little of the seed."""
    return [
        result(
            trial,
            seed,
            accuracy(**study.features(trial)) + 1e-4 * seed,
            flow(**study.features(trial)) * (1 + 1e-3 * seed),
        )
        for trial in study.STUDIES[name]
        for seed in SEEDS
    ]


def verdicts(results, claim):
    return {f.setting: f.verdict for f in study.findings(results) if f.claim == claim}


def test_what_is_measured():
    one = result(study.STUDIES["mlp"][0], 0, accuracy=0.5, flow=4.0)
    assert study.accuracy(one) == 50
    assert study.flow(one) == 2
    assert one.plain_flow == 8


def test_the_trials_of_a_study_differ_in_their_features():
    for trials in study.STUDIES.values():
        found = [tuple(study.features(trial).items()) for trial in trials]
        assert len(set(found)) == len(found)
        assert (
            len(
                {
                    replace(
                        t, architecture=trials[0].architecture, capacity="dense", optimizer="adam"
                    )
                    for t in trials
                }
            )
            == 1
        )


@pytest.mark.parametrize("name", study.STUDIES)
def test_a_study_where_all_is_as_published(name):
    def accuracy(batch_norm, capacity, activation, **_):
        gain = 0.05 if batch_norm and capacity == "sparse" else 0.02 * batch_norm
        return 0.8 + gain + (0.01 if activation != "relu" else 0)

    def flow(optimizer, l2, **_):
        return (2 if optimizer == "adam" else 1) * (1.5 if l2 else 1)

    found = study.findings(made_up(name, accuracy, flow))
    assert {finding.verdict for finding in found} == {"[Re]"}
    claims = set(study.CLAIMS) if name == "mlp" else {"batch norm", "adaptive"}
    assert {finding.claim for finding in found} == claims
    by_claim = {finding.claim: finding.comparison for finding in found}
    assert by_claim["batch norm"].mean == pytest.approx(3)  # percentage points
    assert by_claim["adaptive"].mean == pytest.approx(1)  # twice as much
    assert all(comparison.seeds == len(SEEDS) for comparison in by_claim.values())


def test_a_study_where_it_is_the_other_way_round_or_nothing_differs():
    against = made_up("mlp", flow=lambda l2, **_: 0.5 if l2 else 1.0)
    assert set(verdicts(against, "l2").values()) == {"[¬Re]"}
    assert len(verdicts(against, "l2")) == 8
    assert set(verdicts(against, "swish").values()) == {"open"}
    only_sgd = made_up(
        "mlp",
        lambda optimizer, activation, **_: (
            0.9 + 0.01 * (optimizer == "sgd" and activation == "swish")
        ),
    )
    assert verdicts(only_sgd, "swish") == {
        "sgd": "[Re]",
        "sgd, batch norm": "[Re]",
        "adam": "open",
        "adam, batch norm": "open",
    }


def test_a_finding_takes_more_than_five_seeds():
    few = [
        r
        for r in made_up(
            "conv",
            lambda batch_norm, capacity, **_: 0.5 + 0.1 * (batch_norm and capacity == "sparse"),
        )
        if r.seed < 5
    ]
    assert set(verdicts(few, "batch norm").values()) == {"open"}


def test_a_study_that_is_not_finished_is_compared_over_the_seeds_there_are():
    results = made_up("mlp", flow=lambda l2, **_: 1.5 if l2 else 1.0)
    unfinished = [r for r in results if not r.trial.architecture.l2 or r.seed in (2, 4)]
    by_claim = {finding.claim: finding.comparison for finding in study.findings(unfinished)}
    assert by_claim["l2"].seeds == 2
    assert by_claim["l2"].mean == pytest.approx(0.585, abs=1e-3)  # the binary logarithm of 1.5
    assert by_claim["adaptive"].seeds == len(SEEDS)


def test_what_cannot_be_paired_is_refused():
    results = made_up("conv")
    with pytest.raises(ValueError, match="no result with"):
        study.findings([r for r in results if r.trial.optimizer != "adam"])
    apart = [r for r in results if (r.trial.optimizer == "sgd") == (r.seed < 3)]
    with pytest.raises(ValueError, match="no differences"):
        study.findings(apart)


def test_a_study_that_was_cut_goes_on(tmp_path, monkeypatch):
    trained, trials = [], study.STUDIES["conv"][:2]
    monkeypatch.setitem(study.STUDIES, "conv", trials)

    def train(trial, *, seed, data_dir):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((trial, seed))
        return result(trial, seed, accuracy=0.5, flow=0.123456)

    monkeypatch.setattr(study, "train", train)
    with pytest.raises(KeyboardInterrupt):
        study.write("conv", tmp_path, seeds=(0, 1))
    path = tmp_path / "conv.json"
    assert [(r.trial, r.seed) for r in study.load(path)] == trained
    monkeypatch.setattr(study, "train", lambda trial, *, seed, data_dir: result(trial, seed))
    study.write("conv", tmp_path, seeds=(0, 1))
    results = study.load(path)
    assert [(r.trial, r.seed) for r in results] == [(t, s) for s in (0, 1) for t in trials]
    assert [r.accuracy for r in results] == [0.5, 0.5, 0.5, 0.9]
    assert results[0].effective == (*result(trials[0], 0).effective[:1], (0.1235,) * 3)
    assert results[3] == result(trials[1], 1)
    monkeypatch.setattr(study, "train", None)  # nothing is left to train
    study.write("conv", tmp_path, seeds=(0, 1))
    environment = json.loads(path.read_text())["environment"]
    assert {"keras", "numpy", "revision"} <= environment.keys()


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown study 'resnet'; there are mlp, conv"):
        study.write("resnet", tmp_path)
    with pytest.raises(LaPermError, match="no such file"):
        study.load(tmp_path / "mlp.json")
    for content in ("[]", "{}", '{"results": [{}]}', "no JSON"):
        (tmp_path / "mlp.json").write_text(content)
        with pytest.raises(LaPermError, match="does not hold results of trials"):
            study.load(tmp_path / "mlp.json")


def test_a_verdict_needs_the_test():
    for mean, p_value, verdict in ((1, 0.04, "[Re]"), (-1, 0.04, "[¬Re]"), (1, 0.05, "open")):
        comparison = Comparison(mean, 3, 6, p_value)
        assert study.Finding("l2", "sgd", comparison).verdict == verdict
