"""Runs side by side: the same records and networks as one at a time, and taken up after a cut."""

import time
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from laperm_lib import experiments
from laperm_lib.device_program import DeviceProgram
from laperm_lib.errors import LaPermError
from laperm_lib.experiments import RunFolder, Task, evaluation, side_by_side
from laperm_lib.experiments.side_by_side import groups, run_side_by_side

needs_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax (make test-backends)"
)
SHORT = replace(experiments.quick("f1"), epochs=6, sync_period=20, evaluate_every=20)  # 72 steps
TASKS = [
    Task("f1", SHORT, 0),
    Task("f1", SHORT, 1),
    Task("f1", replace(SHORT, sync_period=36), 1),
]


@needs_jax
def test_records_are_those_of_single_runs(tmp_path):
    together = run_side_by_side(TASKS, tmp_path / "together", every_seconds=0)
    for task, record in zip(TASKS, together, strict=True):
        alone = RunFolder(tmp_path / "alone", task).run()
        assert record.is_permutation
        assert [(e.step, e.since_sync) for e in record.evaluations] == [
            (e.step, e.since_sync) for e in alone.evaluations
        ]
        # Rounding may exchange the ranks of two weights that are all but equal.
        accuracies = [[e.accuracy for e in r.evaluations] for r in (record, alone)]
        np.testing.assert_allclose(*accuracies, atol=0.02)
        assert record.fraction_pruned == alone.fraction_pruned
        assert record.environment == alone.environment | {"side_by_side": "3"}


@needs_jax
def test_a_cut_is_taken_up_bit_for_bit(tmp_path, monkeypatch):
    uncut = run_side_by_side(TASKS, tmp_path / "uncut")
    saved = []
    save = side_by_side._save

    class Cut(Exception):
        pass

    def save_and_cut(program, folders, *arguments):
        save(program, folders, *arguments)
        saved.append(program.step)
        if len(saved) == 2:
            # As if it had come between the checkpoints of two runs.
            (folders[1].path / f"checkpoint-{program.step:09d}.npz").unlink()
            raise Cut

    monkeypatch.setattr(side_by_side, "_save", save_and_cut)
    with pytest.raises(Cut):
        run_side_by_side(TASKS, tmp_path / "cut", every_seconds=0)
    monkeypatch.setattr(side_by_side, "_save", save)
    begun = []
    first = DeviceProgram.__init__

    def noting(self, *arguments, first_step, **others):
        begun.append(first_step)
        first(self, *arguments, first_step=first_step, **others)

    monkeypatch.setattr(DeviceProgram, "__init__", noting)
    resumed = run_side_by_side(TASKS, tmp_path / "cut", every_seconds=0)
    assert begun == [saved[0]]
    for task, one, other in zip(TASKS, uncut, resumed, strict=True):
        assert one.evaluations == other.evaluations
        assert one.environment == other.environment
        networks = [RunFolder(tmp_path / cut, task).network() for cut in ("uncut", "cut")]
        for first_weight, second in zip(*(n.weights for n in networks), strict=True):
            np.testing.assert_array_equal(first_weight.numpy(), second.numpy())
    # All are finished: nothing is trained again.
    assert run_side_by_side(TASKS, tmp_path / "cut") == resumed
    assert len(begun) == 1


@needs_jax
def test_the_images_are_held_once(tmp_path, monkeypatch):
    loaded = []
    load = evaluation.images_for

    def noting(*arguments):
        loaded.append(load(*arguments))
        return loaded[-1]

    class Cut(Exception):
        pass

    def cut(*arguments, **others):
        raise Cut

    monkeypatch.setattr(evaluation, "images_for", noting)
    monkeypatch.setattr(side_by_side, "DeviceProgram", cut)
    with pytest.raises(Cut):
        run_side_by_side(TASKS, tmp_path)
    assert len(loaded) == 1


def test_groups_differ_in_what_may_differ():
    adam = replace(SHORT, sync_period=None)
    other = replace(SHORT, batch_size=64)
    tasks = [*TASKS, Task("f1", adam, 0), Task("f1", other, 0)]
    assert groups(tasks) == [TASKS, [tasks[3]], [tasks[4]]]
    with pytest.raises(ValueError, match="differ in seed, sync period and pruning only"):
        run_side_by_side(tasks, "never-made")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX is what is needed")
def test_other_backends_are_told(tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        run_side_by_side(TASKS[:1], tmp_path)


@needs_jax
def test_a_run_that_another_process_trains(tmp_path):
    with RunFolder(tmp_path, TASKS[0]).lock(), pytest.raises(LaPermError, match="another process"):
        run_side_by_side(TASKS, tmp_path)


@needs_jax
@pytest.mark.parametrize(("seconds", "most"), [(1.5, 1), (0.1, 20), (1e-6, 20)])
def test_the_clock_is_looked_at_however_slow_steps_are(tmp_path, monkeypatch, seconds, most):
    """Evaluations are 20 steps apart; a time budget is kept to within two seconds or a step."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now, monotonic=time.monotonic)
    asked, advance = [], DeviceProgram.advance

    def taking_its_time(self, steps):
        asked.append(steps)
        clock.now += 30 * (len(asked) == 1) + steps * seconds  # the first call compiles
        return advance(self, steps)

    monkeypatch.setattr(side_by_side, "time", clock)
    monkeypatch.setattr(DeviceProgram, "advance", taking_its_time)
    run_side_by_side(TASKS[:1], tmp_path)
    assert (asked[0], max(asked), sum(asked)) == (1, most, 72)
