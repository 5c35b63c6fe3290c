"""Records: three accuracies, JSON files read back as they were written, the shipped ones too."""

import json
from dataclasses import replace

import pytest
from short_runs import SHORT, made

from laperm_lib import files
from laperm_lib.errors import LaPermError
from laperm_lib.paper import records
from laperm_lib.paper.records import Evaluation

RECORD = made(
    "f1",
    final=0.83,
    evaluations=[
        Evaluation(250, 0, 0.80, 0.70),
        Evaluation(300, 50, 0.99, 0.99),
        Evaluation(500, 0, 0.82, 0.75),
        Evaluation(750, 0, 0.84, 0.75),
        Evaluation(1000, 0, 0.85, 0.74),
    ],
)


def test_accuracies_of_one_record():
    """The selected network is synchronised and chosen by the images held out."""
    none = replace(RECORD, evaluations=())
    assert RECORD.selected == 0.82
    unseen = tuple(replace(e, held_out=None) for e in RECORD.evaluations)
    assert replace(RECORD, evaluations=unseen).selected is None
    assert none.selected is None
    for held_out, selected in ((0.76, 0.83), (0.75, 0.82), (0.7, 0.82)):
        assert replace(RECORD, final_held_out=held_out).selected == selected
        assert replace(none, final_held_out=held_out).selected == RECORD.final
    assert (RECORD.published_protocol, none.published_protocol) == (0.99, RECORD.final)
    assert replace(none, final=None).published_protocol is None
    assert (RECORD.best(), RECORD.best(since_sync=50)) == (0.85, 0.99)
    with pytest.raises(ValueError, match="No evaluation 7 steps"):
        RECORD.best(since_sync=7)


def test_records_are_read_back_as_written(tmp_path):
    path = tmp_path / "new" / "f1.json"
    noted = replace(RECORD, environment={"keras": "3"}, measured={"egf": [1.5, None]}, model=3)
    records.save([noted, RECORD], path)
    assert records.load(path) == (replace(noted, model=None), RECORD)
    assert [entry.name for entry in path.parent.iterdir()] == ["f1.json"]
    with pytest.raises(LaPermError, match=r"f1\.json holds 2 records, not one"):
        records.load_one(path)


def assert_holds(written, stored):
    """All that was stored; settings that there were not yet may have joined it."""
    if isinstance(stored, dict):
        for name, value in stored.items():
            assert_holds(written[name], value)
    elif isinstance(stored, list):
        for new, old in zip(written, stored, strict=True):
            assert_holds(new, old)
    else:
        assert written == stored


def test_every_shipped_record_is_read_and_written_as_it_is(repository):
    paths = sorted((repository / "pretrained").rglob("*.json"))
    assert len(paths) > 50
    read = 0
    for path in paths:
        content = json.loads(path.read_text())
        if isinstance(content, list) and "settings" in content[0]:
            found = records.load(path)
            assert_holds(records.to_json(found), content)
            assert all(r.final is None or r.final <= r.published_protocol for r in found)
            read += len(found)
    assert read > 100


def test_files_that_hold_no_records_or_those_of_impossible_settings(tmp_path):
    path = tmp_path / "foreign.json"
    with pytest.raises(LaPermError, match="no such file"):
        records.load(path)
    for content in (
        *(b"", b"[{", b"3", b"{}", b"null", b'""', b'{"a": 1}', b'[{"experiment": "f1"}]', b"[3]"),
        *(b"[" * 100_000, b"\xff\xfe"),
    ):
        path.write_bytes(content)
        with pytest.raises(LaPermError, match=r"foreign\.json"):
            records.load(path)
    content = records.to_json(RECORD)
    content["settings"]["schedule"]["epochs"] = 0
    files.write_json(path, [content])
    with pytest.raises(LaPermError, match="epochs is an integer of at least 1"):
        records.load(path)


def test_values_of_another_type_are_refused(tmp_path):
    wrong = {"experiment": [3, None], "seed": ["0", True, 0.0], "final": ["0.8", False]}
    wrong |= {"is_permutation": ["no", 1, None], "environment": [{"keras": 3}]}
    for name, values in wrong.items():
        for value in values:
            files.write_json(tmp_path / "f1.json", [records.to_json(RECORD) | {name: value}])
            with pytest.raises(LaPermError, match=rf"f1\.json.* is no \w+ @ .*{name}"):
                records.load(tmp_path / "f1.json")


def test_a_file_is_completed_and_nothing_trained_twice(tmp_path):
    path, trained = tmp_path / "all.json", []

    def train(settings, seed):
        if seed == 2:
            raise KeyboardInterrupt
        trained.append(seed)
        return replace(RECORD, settings=settings, seed=seed, model=object())

    planned = [(SHORT, seed) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        records.complete(path, planned, train)
    assert [record.seed for record in records.load(path)] == [0, 1]
    found = records.complete(path, [(SHORT, 3), *planned[:2]], train)
    assert trained == [0, 1, 3]
    assert records.load(path) == tuple(found)
    with pytest.raises(LaPermError, match="holds records of other settings"):
        records.complete(path, [(SHORT.replace(epochs=1), 0)], train)


def test_summaries():
    summary = records.summarise([0.5, 0.6, 0.7])
    assert (summary.mean, summary.std, summary.most) == pytest.approx((0.6, 0.1, 0.7))
    assert (summary.runs, str(summary)) == (3, "60.00 ± 10.00")
    assert str(records.summarise([0.5])) == "50.00"
    with pytest.raises(ValueError, match="no runs"):
        records.summarise([])
