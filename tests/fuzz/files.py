"""Damaged files of every kind that is read: refused in a sentence of ours, or read as before."""

import logging.handlers
import random
import shutil
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
from short_runs import TASK, made

import laperm_lib
from fuzz import Case, TooSlow, bounded
from fuzz.damage import KERNEL, any_bytes, array, hdf5, header, json_value
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.paper import benchmark, manifest, records, runs, table, verification
from laperm_lib.paper.networks import build
from laperm_lib.paper.pretrained import load_pretrained
from laperm_lib.paper.published import load_published
from laperm_lib.paper.studies import shared_value

_RECORD = replace(made("f1"), settings=TASK.settings, seed=TASK.seed)


def write(folder):
    """Undamaged files of each kind."""
    run = runs.RunFolder(folder / "runs", TASK)
    with run.lock():
        model, _ = TASK.settings.network.build(TASK.seed)
        runs.write(run.path, replace(_RECORD, model=model))
    verification.publish(run.path, folder / "networks")
    records.save([_RECORD, made("conv7", 1, held_out=5000)], folder / "records/f1.json")
    for step in (1, 2):  # a reader may take either
        arrays = {"weight": np.arange(999.0), "step": np.array(1)}
        Checkpoints(folder / "checkpoints").save(step, arrays, {"seconds": 1.0})
    (folder / "search").mkdir()
    shared_value.save(_search(folder / "search/storage.log"), folder / "search/study.json")
    (folder / "published").mkdir()
    for name, value in {"f1.h5": 0.1, "other.h5": 0.2}.items():
        with h5py.File(folder / "published" / name, "w") as file:
            file[KERNEL] = np.full((784, 10), value, np.float32)
            file["dense_1"].attrs["weight_names"] = [b"dense_1/kernel:0"]
            file.attrs["layer_names"] = [b"dense_1"]


def _bits(model):
    return [(weight.path, np.array(weight).tobytes()) for weight in model.weights]


def _checkpoint(path):
    latest = Checkpoints(path.parent).latest()
    return {name: array.tobytes() for name, array in latest.arrays.items()}, latest.notes


def _records(path):
    """As `list` and `table` show them, and `import` takes them."""
    found = runs.states(path.parent / "none", path.parent)
    text = table.plain(table.by_settings([state.record for state in found]))
    runs.add_records([path], path.parent / "imported")
    return text, table.plain(benchmark.overview([], found)), records.load(path)


def _manifest(path):
    entries = manifest.read(path.parent)
    return [(e, _bits(load_pretrained(manifest.locate(e, path.parent)))) for e in entries]


def _search(path):
    """A search whose trainings take no time."""

    def train(settings, seed, *_):
        return replace(_RECORD, settings=settings, seed=seed, final_held_out=0.5)

    with mock.patch.object(shared_value, "_train", train):
        study = shared_value.search("f1", trials=2, dataset="digits", storage=str(path))
    return replace(study, seconds=0.0)


def _run(path):
    return _bits(runs.read(path.parent).model)


# How each file is read, and how it is damaged beside `any_bytes`.
KINDS = {
    f"networks/{TASK.name}.safetensors": (lambda path: _bits(load_pretrained(path)), header),
    "networks/manifest.json": (_manifest, json_value),
    "records/f1.json": (_records, json_value),
    f"runs/{TASK.name}/configuration.json": (lambda path: runs.states(path.parents[1]), json_value),
    f"runs/{TASK.name}/record.json": (_run, json_value),
    f"runs/{TASK.name}/network.npz": (_run, array),
    "checkpoints/checkpoint-000000002.npz": (_checkpoint, array),
    "search/study.json": (shared_value.load, json_value),
    "search/storage.log": (_search, json_value),
    "published/f1.h5": (lambda path: _bits(load_published(build("f1", seed=0), path)), hdf5),
}


def run(seed, numbers, folder):
    write(folder / "whole")
    shutil.copytree(folder / "whole", folder / "undamaged")
    undamaged = {name: repr(read(folder / "undamaged" / name)) for name, (read, _) in KINDS.items()}
    for number in numbers:
        chance, (name, (read, damage)) = (
            random.Random(f"{seed}/{number}"),
            [*KINDS.items()][number % 10],
        )
        top, path = Path(name).parts[0], folder / "damaged" / name
        shutil.rmtree(folder / "damaged", ignore_errors=True)
        shutil.copytree(folder / "whole" / top, folder / "damaged" / top)
        may_differ = chance.choice([any_bytes, damage])(chance, path)
        found, warned, wrong = _read(read, path)
        outcome = (
            "refused" if found is None else "as before" if found == undamaged[name] else "other"
        )
        # HDF5 has no checksum, but the authors' own files are known.
        if outcome == "other" and not (may_differ and (warned or path.suffix != ".h5")):
            wrong = "it gives something else"
        yield Case(number, name, "wrong" if wrong else outcome, wrong)


def _read(read, path):
    """What a file gives, whether with a warning, and what is wrong about an error."""
    log = logging.handlers.BufferingHandler(1000)
    logging.getLogger("laperm_lib").addHandler(log)
    try:
        with bounded(10), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = repr(read(path))
        warned = [each for each in warned if each.category is UserWarning]
        return found, bool(log.buffer or warned), ""
    except TooSlow:
        return None, False, "it takes more than 10 seconds"
    except Exception as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        by_us = Path(laperm_lib.__file__).parent in raised_in.parents
        is_known = by_us and isinstance(error, ValueError | OSError)
        in_a_line = 0 < len(str(error)) < 1000 and "\n" not in str(error)
        wrong = "" if is_known and in_a_line else f"{type(error).__name__}: {error}"[:300]
        return None, False, wrong
    finally:
        logging.getLogger("laperm_lib").removeHandler(log)
