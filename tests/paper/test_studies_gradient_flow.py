"""Networks of the same capacity, and what their gradient flow says of the published findings."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from keras import layers, ops
from scipy import stats
from short_runs import made

from laperm_lib import weight_vectors
from laperm_lib.paper import records
from laperm_lib.paper.methods import Adam
from laperm_lib.paper.networks import SameCapacityNetwork, fill_sparsely
from laperm_lib.paper.settings import Data, Schedule, Settings
from laperm_lib.paper.studies import gradient_flow as study
from laperm_lib.paper.studies.gradient_flow import Comparison, train, wilcoxon

SHORT = Settings(
    network=SameCapacityNetwork(units=(16, 16), batch_norm=True, capacity="sparse"),
    data=Data(dataset="digits"),
    method=Adam(summed_loss=False, keep_zeros=True),
    schedule=Schedule(epochs=2, batch_size=64),
    evaluate_every=20,
)


def kernels(model):
    return [ops.convert_to_numpy(vectors.variable) for vectors in weight_vectors.of(model)]


def built(network, seed=0, **changes):
    return replace(network, **changes).build(seed)[0]


# -- the networks ---------------------------------------------------------------------------------


@hypothesis_settings(max_examples=15)
@given(
    st.lists(st.integers(1, 4), max_size=2),
    st.lists(st.integers(1, 6), max_size=2),
    st.integers(2, 4),
    st.integers(0, 2**64),
    st.sampled_from(["sparse", "rescaled"]),
)
def test_each_layer_has_the_values_of_the_dense_one(filters, units, factor, seed, capacity):
    dense = SameCapacityNetwork(filters=tuple(filters), units=tuple(units), factor=factor)
    wide, report = replace(dense, capacity=capacity).build(seed)
    pairs = list(zip(kernels(built(dense, seed)), kernels(wide), report.layers, strict=True))
    assert len(pairs) == len(filters) + len(units) + 1
    for number, (one, other, layer) in enumerate(pairs, 1):
        is_rescaled = capacity == "rescaled" and number < len(pairs)  # all but the logits
        scale = np.float32(factor**0.5 if is_rescaled else 1)
        np.testing.assert_array_equal(np.sort(other[other != 0]), np.sort(one.ravel() * scale))
        assert (layer.kept, layer.total) == (one.size, other.size)


def test_places_depend_on_the_seed():
    network = SameCapacityNetwork(units=(40, 40), capacity="sparse")
    first, again, other = ([k != 0 for k in kernels(built(network, seed))] for seed in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))


def test_nothing_but_kernels_changes_and_nothing_at_all_on_errors():
    narrow = SameCapacityNetwork(units=(8,), batch_norm=True, activation="prelu")
    dense, wide = built(narrow), built(narrow, units=(16,))
    for smaller, larger, seed, message in (
        (wide, dense, 0, "do not go into 'dense/kernel'"),
        (built(narrow, units=(8, 8)), wide, 0, "3 kernels do not go"),
        (dense, wide, -1, "seed"),
    ):
        start = larger.get_weights()
        with pytest.raises(ValueError, match=message):
            fill_sparsely(larger, smaller, seed=seed)
        assert all(map(np.array_equal, start, larger.get_weights()))
    before = wide.get_weights()
    fill_sparsely(wide, dense, seed=0)
    for variable, old, new in zip(wide.weights, before, wide.get_weights(), strict=True):
        assert np.array_equal(old, new) == (variable.name != "kernel")


def test_networks_have_the_layers_that_they_say():
    network = SameCapacityNetwork(
        filters=(3,), units=(5,), activation="prelu", batch_norm=True, l2=0.5
    )
    model = built(network)
    activated = layers.BatchNormalization, layers.PReLU
    assert [type(layer) for layer in model.layers] == [
        *(layers.Conv2D, *activated, layers.Flatten),
        *(layers.Dense, *activated, layers.Dense),
    ]
    penalty = sum(0.5 * (kernel**2).sum() for kernel in kernels(model))
    assert float(ops.convert_to_numpy(sum(model.losses))) == pytest.approx(penalty, rel=1e-5)
    slopes = [v for v in model.trainable_variables if v.name == "alpha"]
    assert [int(np.prod(v.shape)) for v in slopes] == [3, 5]
    assert all((ops.convert_to_numpy(v) == 0.25).all() for v in slopes)
    assert not any(v.name == "bias" for v in model.variables)


def test_impossible_networks_are_refused():
    for change, message in (
        ({"units": (0,)}, "units is an integer of at least 1"),
        ({"activation": "tanh"}, "Unknown activation 'tanh'"),
        ({"l2": -1.0}, "l2 is a number at least 0"),
        ({"capacity": "wide"}, "Unknown capacity 'wide'"),
        ({"factor": 1}, "factor is an integer of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            SameCapacityNetwork(**change)


# -- their training -------------------------------------------------------------------------------


def test_pruned_weights_stay_pruned_and_the_network_learns():
    sparse = train(SHORT, 0)
    assert study.accuracy(sparse) > 40
    assert sparse.fraction_pruned > 0.7
    measured = sparse.measured
    dense = kernels(built(SHORT.network, capacity="dense"))
    assert measured["active"] == [kernel.size for kernel in dense]
    assert [np.count_nonzero(kernel) for kernel in kernels(sparse.model)] == measured["active"]
    assert measured["steps"] == [0, 20, 40, 46]
    norms, effective = (np.array(measured[name]) for name in ("norms", "effective"))
    assert norms.shape == effective.shape == (4, 3)
    assert np.all((effective > 0) & (effective < norms))


def test_permuted_networks_keep_the_values_of_the_dense_one():
    settings = study.by_optimizer(SHORT, "laperm").replace(epochs=1, sync_period=10)
    record = train(settings, 0)
    assert record.is_permutation
    starts = built(SHORT.network, capacity="dense"), built(SHORT.network)
    for values, before, after in zip(*map(kernels, (*starts, record.model)), strict=True):
        np.testing.assert_array_equal(np.sort(after[after != 0]), np.sort(values.ravel()))
        assert ((before == 0) != (after == 0)).any()  # zeros have moved


# -- the signed-rank test -------------------------------------------------------------------------


def by_enumeration(differences):
    """The share of all ways to sign the ranks that are at least as uneven."""
    values = np.array([d for d in differences if d])
    ranks = stats.rankdata(np.abs(values))
    seen = abs((ranks * np.sign(values)).sum())
    sums = [abs((ranks * signs).sum()) for signs in product((-1, 1), repeat=len(values))]
    return np.mean([total >= seen - 1e-9 for total in sums])


@hypothesis_settings(max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_it_is_wilcoxons_signed_rank_test_ties_and_zeros_included(differences):
    result = wilcoxon(differences)
    assert result.p_value == pytest.approx(by_enumeration(differences) if any(differences) else 1)
    assert result.mean == pytest.approx(np.mean(differences))
    assert result.positive == sum(d > 0 for d in differences)
    assert result.seeds == len(differences)
    assert wilcoxon([-d for d in differences]).p_value == pytest.approx(result.p_value)
    with pytest.raises(ValueError, match="no differences"):
        wilcoxon([])


# -- findings -------------------------------------------------------------------------------------


def record(settings, seed, accuracy=0.9, flow=1.0):
    """A record with so much flow, of three kernels, after a first measurement that counts not."""
    measured = {"effective": [[9.0, 9.0, 9.0], [flow, flow, flow]]}
    return replace(made("f1"), settings=settings, seed=seed, final=accuracy, measured=measured)


def made_up(name, accuracy=lambda **features: 0.9, flow=lambda **features: 1.0):
    """Records of a study, each of the two a function of the features, with a little of the seed."""
    found = []
    for settings in study.STUDIES[name]:
        features = study.features(settings)
        for seed in study.SEEDS:
            both = accuracy(**features) + 1e-4 * seed, flow(**features) * (1 + 1e-3 * seed)
            found.append(record(settings, seed, *both))
    return found


def verdicts(records, claim):
    return {f.setting: f.verdict for f in study.findings(records) if f.claim == claim}


@pytest.mark.parametrize("name", study.STUDIES)
def test_a_study_where_all_is_as_published(name):
    def accuracy(batch_norm, capacity, activation, **_):
        gain = 0.05 if batch_norm and capacity == "sparse" else 0.02 * batch_norm
        return 0.8 + gain + (0.01 if activation != "relu" else 0)

    def flow(optimizer, l2, **_):
        return (2 if optimizer == "adam" else 1) * (1.5 if l2 else 1)

    planned = study.STUDIES[name]
    assert len({tuple(study.features(settings).items()) for settings in planned}) == len(planned)
    found = study.findings(made_up(name, accuracy, flow))
    assert {finding.verdict for finding in found} == {"[Re]"}
    claims = set(study.CLAIMS) if name == "mlp" else {"batch norm", "adaptive"}
    assert {finding.claim for finding in found} == claims
    by_claim = {finding.claim: finding.comparison for finding in found}
    assert by_claim["batch norm"].mean == pytest.approx(3)  # percentage points
    assert by_claim["adaptive"].mean == pytest.approx(1)  # twice as much
    assert all(comparison.seeds == len(study.SEEDS) for comparison in by_claim.values())


def test_a_study_where_it_is_the_other_way_round_or_nothing_differs():
    against = made_up("mlp", flow=lambda l2, **_: 0.5 if l2 else 1.0)
    assert list(verdicts(against, "l2").values()) == ["[¬Re]"] * 8
    assert set(verdicts(against, "swish").values()) == {"open"}
    swish = made_up(
        "mlp",
        lambda optimizer, activation, **_: (
            0.9 + 0.01 * (optimizer == "sgd" and activation == "swish")
        ),
    )
    found = {"sgd": "[Re]", "adam": "open"}
    found |= {f"{name}, batch norm": verdict for name, verdict in found.items()}
    assert verdicts(swish, "swish") == found


def test_a_study_that_is_not_finished_is_compared_over_the_seeds_there_are():
    found = made_up("mlp", flow=lambda l2, **_: 1.5 if l2 else 1.0)
    unfinished = [r for r in found if not r.settings.network.l2 or r.seed in (2, 4)]
    by_claim = {finding.claim: finding.comparison for finding in study.findings(unfinished)}
    assert by_claim["l2"].seeds == 2
    assert by_claim["l2"].mean == pytest.approx(0.585, abs=1e-3)  # the binary logarithm of 1.5
    assert by_claim["adaptive"].seeds == len(study.SEEDS)
    with pytest.raises(ValueError, match="no differences"):
        study.findings([r for r in made_up("conv") if not isinstance(r.settings.method, Adam)])


def test_what_is_measured_and_a_verdict():
    one = record(SHORT, 0, accuracy=0.5, flow=4.0)
    assert study.accuracy(one) == 50
    assert study.accuracy(replace(one, final_reestimated=0.75)) == 75
    assert study.effective_flow(one) == 4
    for mean, p_value, verdict in ((1, 0.04, "[Re]"), (-1, 0.04, "[¬Re]"), (1, 0.05, "open")):
        assert study.Finding("l2", "sgd", Comparison(mean, 3, 6, p_value)).verdict == verdict


def test_a_study_writes_what_is_planned(tmp_path, monkeypatch):
    planned = study.STUDIES["conv"][:2]
    monkeypatch.setitem(study.STUDIES, "conv", planned)
    monkeypatch.setattr(study, "train", lambda settings, seed, **_: record(settings, seed))
    study.write("conv", tmp_path, seeds=(0, 1))
    expected = [record(settings, seed) for seed in (0, 1) for settings in planned]
    assert list(records.load(tmp_path / "conv.json")) == expected
    with pytest.raises(ValueError, match="Unknown study 'resnet'; there are mlp, conv"):
        study.write("resnet", tmp_path)
