"""The trials of record runs keep away from the test images."""

from laperm_lib.paper.records import load
from laperm_lib.paper.studies import record_runs

QUICK = record_runs.TRIALS["cifar10"][0].replace(
    model="conv6_32", precision="float32", dataset="digits", held_out=200, epochs=1
)


def test_trials_say_nothing_of_the_test_images(tmp_path, monkeypatch):
    monkeypatch.setitem(record_runs.TRIALS, "mnist", (QUICK,))
    record_runs.write_trials(tmp_path, "mnist", verbose=0)
    (record,) = load(tmp_path / "trials_mnist.json")
    assert record.final is None
    assert not record.evaluations
    assert record.final_held_out > 0.2
    assert record.is_permutation
