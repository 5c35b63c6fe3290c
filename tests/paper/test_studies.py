"""The shipped records of the studies are those that the studies would make."""

import pytest

from laperm_lib.paper import records
from laperm_lib.paper.studies import averaging, gradient_flow, rso, sgperm, shared_value, statistics

AVERAGING = {
    f"averaging/{name}": {averaging.with_method(each, method) for method in averaging.methods(each)}
    for name, each in averaging.SETTINGS.items()
}
FLOW = {f"gradient_flow/{name}": set(planned) for name, planned in gradient_flow.STUDIES.items()}
ALONE = {f"rso/{name}": settings for name, settings in rso.SETTINGS.items()} | {
    "one_value": shared_value.SETTINGS,
    "sgperm": sgperm.SETTINGS,
    **sgperm.BESIDE,
}
PLANNED = AVERAGING | FLOW | {path: {settings} for path, settings in ALONE.items()}


@pytest.mark.parametrize("path", PLANNED)
def test_shipped_records_are_those_planned(path, repository):
    found = records.load(repository / "pretrained" / f"{path}.json")
    assert {record.experiment for record in found} == {path.rpartition("/")[2]}
    assert {record.settings for record in found} == PLANNED[path]
    for settings in PLANNED[path]:
        seeds = [record.seed for record in found if record.settings == settings]
        assert seeds == list(range(len(seeds)))


@pytest.mark.parametrize("name", shared_value.SPACES)
def test_shipped_searches_hold_together(name, repository):
    study = shared_value.load(repository / "pretrained" / "shared_value" / f"{name}.json")
    assert study.space == name
    assert {record.settings.replace(held_out=10_000) for record in study.confirmed} == {study.best}
    assert {record.settings for record in study.finalists} <= {r.settings for r in study.results}


def test_shipped_statistics_are_those_of_the_shipped_network(repository):
    name = "conv2-seed0-7b5760fc"
    found = statistics.load(repository / "pretrained" / "statistics" / f"{name}.json")
    assert found.left == records.load_one(repository / "pretrained" / f"{name}.json").final
