"""Checkpoints: what is kept, what is skipped, and trainings that resume bit for bit."""

import logging
import os
import re
from itertools import chain, repeat
from unittest.mock import Mock

import keras
import numpy as np
import pytest

from laperm_lib import LaPerm, checkpoints
from laperm_lib.batches import Batches
from laperm_lib.checkpoints import Checkpoint, Checkpoints, SaveCheckpoints, restore, state_of
from laperm_lib.errors import WeightFileError
from laperm_lib.optimizers.permuting import steps_taken

STEPS = 24


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 6)).astype("float32")
    return x, (x[:, :1] > 0).astype("float32")


def compiled(units=5):
    """A network with everything that has a state: batch normalisation, dropout, two optimizers.

    Were dropout's state not kept, a resumed run would draw the first masks again.
    """
    keras.utils.set_random_seed(3)
    inner = [
        keras.layers.Dense(units, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=1),
    ]
    output = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([keras.Input((6,)), *inner, output])
    model.compile(LaPerm(keras.optimizers.Adam(0.01), sync_period=5), loss="binary_crossentropy")
    return model


def small(optimizer, **how):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, **how)])
    model.compile(optimizer, loss="mse")
    return model


SMALL_X, SMALL_Y = np.arange(32.0).reshape(8, 4) / 32, np.arange(24.0).reshape(8, 3) / 24


def batches(data, first_step=0):
    return Batches(*data, batch_size=8, epochs=6, seed=0, first_step=first_step)


def train(model, data, first_step=0, callbacks=()):
    model.fit(batches(data, first_step), shuffle=False, verbose=0, callbacks=list(callbacks))
    return state_of(model)


def assert_state(model, expected):
    state = state_of(model)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


class Cut(Exception):
    """Stands for a power cut."""


class CutAfter(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.steps:
            raise Cut


def test_a_training_resumes_from_any_step_bit_for_bit(data, tmp_path):
    uncut = train(compiled(), data)
    assert len(batches(data)) == STEPS
    cut, resumed = compiled(), compiled()
    cut.optimizer.build(cut.trainable_variables)
    start = state_of(cut)
    for cut_after in (1, 4, 5, 7, 23):  # mid-epoch, an epoch's end, at and beside synchronisations
        checkpoints = Checkpoints(tmp_path / str(cut_after))
        saving = SaveCheckpoints(checkpoints, every_seconds=0)
        restore(cut, start)
        with pytest.raises(Cut):
            train(cut, data, callbacks=[saving, CutAfter(cut_after)])
        latest = checkpoints.latest()
        assert latest.step == cut_after
        restore(resumed, latest.arrays)
        train(resumed, data, first_step=latest.step)
        assert_state(resumed, uncut)
        assert resumed.optimizer.is_permutation()


def test_the_two_latest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10, 15):
        checkpoints.save(step, {"w": np.full(3, step)}, notes=[step])
    assert [path.name[-7:] for path in sorted(tmp_path.iterdir())] == ["010.npz", "015.npz"]
    latest = checkpoints.latest()
    assert (latest.step, latest.notes, latest.arrays["w"].tolist()) == (15, [15], [15] * 3)
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_whatever_is_damaged_is_skipped_and_named(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, {"v": np.zeros(2), "w": np.full(9, float(step))}, notes=[step])
    path = tmp_path / "checkpoint-000000010.npz"
    whole, arrays = path.read_bytes(), dict(np.load(path))
    damaged = [whole[:size] for size in range(0, len(whole), 29)]
    for place in range(0, len(whole), 7):
        damaged.append(bytearray(whole))
        damaged[-1][place] ^= 1 << place % 8
    without = {name: array for name, array in arrays.items() if name != "w"}
    deep = arrays | {"checkpoint.json": np.frombuffer(b"[" * 10**5, np.uint8)}
    for content in (without, {"w": np.zeros(1)}, deep):
        np.savez(path, **content)
        damaged.append(path.read_bytes())
    steps = []
    for content in damaged:
        path.write_bytes(content)
        latest = checkpoints.latest()
        steps.append(latest.step)
        # Dates and the like may be altered, values not.
        assert latest.arrays["w"].tolist() == latest.notes * 9 == [latest.step] * 9
    assert len(caplog.messages) == steps.count(5) > len(damaged) / 2
    assert all("checkpoint-000000010.npz" in message for message in caplog.messages)
    for message, why in zip(
        caplog.messages[-3:], ("all that was", *["is not a checkpoint"] * 2), strict=True
    ):
        assert why in message
    # The training that resumes from step 5 does not count it as the one before.
    checkpoints.save(6, {"w": np.zeros(1)})
    assert [path.name[-6:-4] for path in sorted(tmp_path.iterdir())] == ["05", "06"]


def test_one_of_another_training_is_refused(tmp_path):
    about = {"seed": 0, "data": "ab", "settings": {"sizes": (3, 4)}}
    Checkpoints(tmp_path, about).save(np.int64(5), {"w": np.zeros(2)})
    for same in (about, {"seed": 0}, None):
        assert Checkpoints(tmp_path, same).latest().step == 5
    for other, what in [
        ({"seed": 1}, "seed"),
        (about | {"data": "cd", "settings": {"sizes": [3, 5]}}, "data, settings"),
        ({"seed": 0, "more": 1}, "more"),
    ]:
        with pytest.raises(WeightFileError, match=f"5.npz is from a .* differs in {what}: res"):
            Checkpoints(tmp_path, other).latest()


def test_one_that_was_renamed_or_has_another_format_is_refused(tmp_path, monkeypatch):
    made = Checkpoints(tmp_path)
    file, other = made.path(5), made.path(40)
    made.save(5, {"w": np.zeros(2)})
    file.rename(other)
    with pytest.raises(WeightFileError, match=f"{other} has been renamed: it is of step 5"):
        made.latest()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_FORMAT", 3)
        made.save(40, {"w": np.zeros(2)})
    with pytest.raises(WeightFileError, match=f"{other} is of format 3, not 2"):
        made.latest()
    np.savez(other, **{"notes.json": np.zeros(2)})
    with pytest.raises(WeightFileError, match=f"{other} is of format 1, not 2"):
        made.latest()


def test_training_continues_on_a_full_disk(data, tmp_path, monkeypatch, caplog):
    uncut, model = train(compiled(), data), compiled()
    checkpoints = Checkpoints(tmp_path)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=chain([None] * 7, repeat(full))))
    with caplog.at_level(logging.WARNING):
        train(model, data, callbacks=[SaveCheckpoints(checkpoints, every_seconds=0)])
    assert re.search("No space left on device: .*checkpoint-", caplog.text)
    assert checkpoints.latest() is not None
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}
    assert_state(model, uncut)


def test_the_state_of_another_network_is_refused(data):
    model, other = compiled(), compiled(units=4)
    state, before = train(model, data), state_of(other)
    with pytest.raises(WeightFileError, match="another model"):
        restore(other, state)
    assert not other.optimizer.built  # LaPerm has yet to take the initial weights
    assert_state(other, before)
    with pytest.raises(WeightFileError, match="another model"):
        restore(model, {name: value for name, value in state.items() if "optimizer" not in name})
    assert_state(model, state)


def test_the_state_of_another_dtype_or_optimizer_is_refused():
    def trained(dtype, optimizer):
        model = small(optimizer, dtype=dtype)
        model.train_on_batch(SMALL_X, SMALL_Y)
        return model

    for stored, dtype, optimizer, why in [
        ("bfloat16", "float32", "adam", "was stored as uint16 of shape .*, but is float32"),
        ("bfloat16", "bfloat16", "adamax", "optimizer/Ada"),
        ("float32", "bfloat16", "adam", "was stored as float32 of shape .*, but is bfloat16"),
    ]:
        other = trained(dtype, optimizer)
        before = state_of(other)
        with pytest.raises(WeightFileError, match=why):
            restore(other, state_of(trained(stored, "adam")))
        assert_state(other, before)


def test_what_is_no_state():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    for use in (state_of, lambda model: restore(model, {})):
        with pytest.raises(ValueError, match="not compiled"):
            use(model)
    with pytest.raises(ValueError, match=r"checkpoint\.arrays"):
        restore(compiled(), Checkpoint(1, {}, None))
    with pytest.raises(ValueError, match=r"Checkpoints\(folder\)"):
        SaveCheckpoints("folder")


def test_what_a_killed_process_has_left_is_cleared(tmp_path):
    part = tmp_path / ".checkpoint-000000007.npz.0123456789abcdef.part"
    checkpoints = Checkpoints(tmp_path)
    for clear in (lambda: checkpoints.save(8, {}), checkpoints.clear):
        part.write_bytes(b"half")
        clear()
        assert not part.exists()


def test_what_cannot_be_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"pickle|[Oo]bject"):
        checkpoints.save(1, {"w": np.array([{}], dtype=object)})
    with pytest.raises(TypeError):
        checkpoints.save(1, {}, notes=object())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="every_seconds"):
        SaveCheckpoints(checkpoints, every_seconds=-1)


def test_steps_taken_are_those_that_the_optimizer_has_counted():
    """In callbacks too, where JAX keeps the state apart, and after a last, short execution."""

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(steps_taken(self.model))

    seen, model = [], small("sgd")
    at_once = 1 if keras.backend.backend() == "torch" else 2
    model.compile("sgd", loss="mse", steps_per_execution=at_once)
    for _ in range(2):
        model.fit(SMALL_X[:5], SMALL_Y[:5], 1, verbose=0, callbacks=[Note()])
    assert seen == ([*range(1, 11)] if at_once == 1 else [2, 4, 5, 7, 9, 10])


def test_a_step_count_that_is_no_position_in_the_data_is_refused(tmp_path):
    def accumulating():
        return keras.optimizers.Adam(gradient_accumulation_steps=2)

    for optimizer, why in [
        (accumulating(), "accumulates gradients"),
        (LaPerm(accumulating(), 2), "Adam accumulates gradients"),
        (keras.optimizers.LossScaleOptimizer(LaPerm("adam", 2)), "skips steps"),
    ]:
        saving = SaveCheckpoints(Checkpoints(tmp_path), every_seconds=0)
        with pytest.raises(ValueError, match=why):
            small(optimizer).fit(SMALL_X, SMALL_Y, callbacks=[saving], verbose=0)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_reduced_precision_are_kept(tmp_path, dtype):
    model, again = (small(LaPerm("adam", sync_period=2), dtype=dtype) for _ in range(2))
    for trained in (model, model, model, again):
        trained.train_on_batch(SMALL_X, SMALL_Y)
    state = state_of(model)
    Checkpoints(tmp_path).save(3, state)
    restore(again, Checkpoints(tmp_path).latest().arrays)
    assert again.layers[0].kernel.dtype == dtype
    assert_state(again, state)
