"""A seeded fuzzer: damaged files, killed trainings, nonsense commands. `make fuzz` runs it.

Each part yields (number, what it is about, what came of it, what is wrong about that or "").
"""

import argparse
import contextlib
import io
import itertools
import json
import logging.handlers
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from unittest import mock

import h5py
import keras
import numpy as np
from safetensors.numpy import load_file
from short_runs import SHORT, TASK, made

import laperm_lib
from laperm_lib.checkpoints import Checkpoints
from laperm_lib.files import read_arrays
from laperm_lib.paper import benchmark, command_line, manifest, queue, records, runs, table
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.networks import build
from laperm_lib.paper.pretrained import load_pretrained
from laperm_lib.paper.published import load_published
from laperm_lib.paper.studies import shared_value
from laperm_lib.paper.verification import publish
from laperm_lib.storage import content_hash


class TooSlow(BaseException):  # which no `except Exception` catches
    pass


class StartedToTrain(BaseException):
    pass


@contextlib.contextmanager
def bounded(seconds):
    """Raise TooSlow after some seconds and, on Linux, MemoryError beyond a gigabyte more."""
    handler = signal.signal(signal.SIGALRM, mock.Mock(side_effect=TooSlow))
    others = signal.alarm(seconds)  # pytest-timeout's
    with contextlib.ExitStack() as after:
        after.callback(signal.signal, signal.SIGALRM, handler)
        after.callback(signal.alarm, others)
        if sys.platform == "linux":
            import resource

            limits = resource.getrlimit(resource.RLIMIT_AS)
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, limits[1]))
            after.callback(resource.setrlimit, resource.RLIMIT_AS, limits)
        yield


# -- damage: each kind says whether another content may be read then -------------------------------

# As JSON writes them; some of them no JSON module would write.
VALUES = ["null", "true", "-1", "0", "1.5", "NaN", "-Infinity", "1e308", "1e999", "[]", "{}"]
VALUES += ["[null]", "[[[0]]]", '""', r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"a\nb"', '"../x"']
VALUES += ['"/etc/passwd"', '"mixed_bfloat16"', '"bias"', '"none"', '{"kind": "Adam"}', "9" * 400]
VALUES += ["9" * 5000, f'"{5000 * "x"}"', "[" * 100_000 + "]" * 100_000]
SHAPES = ("(10**12,)", "(1000000000000,)", "(-1,)", "(9223372036854775807, 9)", "()", "(0,)")
TYPES = ("'|O'", "'<f2'", "'>f8'", "'<U9'", "'|V2'", "'<i4'", "'f4, (9999999)f4'", "None", "?")
KERNEL = "dense_1/dense_1/kernel:0"  # in a published file of F1


def any_bytes(chance, path):
    """Half of it in the first 200 bytes, where headers are."""
    content = path.read_bytes()
    start = chance.randrange(chance.choice([len(content), min(len(content), 200)]))
    stop = start + chance.choice([1, 8, 64, 512])
    before, part, after = content[:start], content[start:stop], content[stop:]
    huge = chance.choice([2**31, 2**40, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little")
    damaged = [
        *(before, before + after, before + part + part + after, part + before + after),
        before + bytes([part[0] ^ 1 << chance.randrange(8)]) + part[1:] + after,
        before + bytes(len(part)) + after,
        before + huge + content[start + 8 :],
    ]
    path.write_bytes(chance.choice(damaged))
    return path.suffix in (".json", ".log", ".h5")  # which have no checksum


def other_value(chance, text):
    """JSON with another value in the place of a name, a number, a list or an object."""
    pattern = chance.choice([r'"[^"]*"|-?\d[\d.e+-]*|true|false|null', r"\[[^\[\]]*\]|\{[^{}]*\}"])
    part = chance.choice([*re.finditer(pattern, text)])
    return text[: part.start()] + chance.choice(VALUES) + text[part.end() :]


def json_value(chance, path):
    path.write_text(other_value(chance, path.read_text()))
    return True


def header(chance, path):
    """The header of a network file, or ours in it, with the hash of that if it can have one."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    text = content[8:start].decode()
    if chance.random() < 0.5:
        text = other_value(chance, text)
    else:
        own = other_value(chance, json.loads(text)["__metadata__"]["laperm_lib"])
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            read = json.loads(own)
            del read["sha256"]
            own = json.dumps(read | {"sha256": content_hash(read, load_file(path))})
        text = json.dumps(json.loads(text) | {"__metadata__": {"laperm_lib": own}})
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + content[start:])
    return False  # the weights have a hash of their own


def array(chance, path):
    """An archive whose checksums are right, with an array of another kind or none in a place."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(list(entries))
    start, text, rest = entries[name][:10], entries[name][10:128].decode(), entries[name][128:]
    shape = re.sub(r"\(.*\)", chance.choice(SHAPES), text).rstrip().ljust(117)
    dtype = re.sub(r": '.*?'", f": {chance.choice(TYPES)}", text).rstrip().ljust(117)
    damaged = [start + f"{each}\n".encode() + rest for each in (shape, dtype)]
    entries[name] = chance.choice([*damaged, start + text.encode() + rest[::-1], start, None])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return True


def hdf5(chance, path):
    """A kernel of another type or shape, or one that lies elsewhere, or nowhere."""
    there, how = str(path.with_name("other.h5")), chance.randrange(6)
    with h5py.File(path, "r+") as file:
        kernel = file.pop(KERNEL)[()]
        if how == 0:
            kernels = [*map(kernel.astype, ("f2", "f8", "i4", "S4")), kernel.T, kernel * np.nan]
            file[KERNEL] = chance.choice([*kernels, kernel.view([("a", "f4")]), h5py.Empty("f4")])
        elif how == 1:
            file[KERNEL] = h5py.ExternalLink(there, KERNEL)
        elif how == 2:
            layout = h5py.VirtualLayout(kernel.shape, "f4")
            layout[...] = h5py.VirtualSource(there, KERNEL, kernel.shape)
            file.create_virtual_dataset(KERNEL, layout)
        elif how == 3:  # with a bias of 8 GB of zeros, which need no place
            file[KERNEL] = kernel
            file["dense_1"].attrs["weight_names"] = [b"dense_1/kernel:0", b"dense_1/bias:0"]
            file.create_dataset("dense_1/dense_1/bias:0", (2**31,), "f4", chunks=(1024,))
        else:
            outside = [(there, 0, kernel.nbytes)] if how == 4 else None
            file.create_dataset(KERNEL, kernel.shape, "f4", external=outside)
    return how == 0


# -- files: refused in a sentence of ours, or read as before ---------------------------------------

RECORD = replace(made("f1"), settings=TASK.settings, seed=TASK.seed)


def write(folder):
    """Undamaged files of each kind."""
    run = runs.RunFolder(folder / "runs", TASK)
    with run.lock():
        model, _ = TASK.settings.network.build(TASK.seed)
        runs.write(run.path, replace(RECORD, model=model))
    publish(run.path, folder / "networks")
    records.save([RECORD, made("conv7", 1, held_out=5000)], folder / "records/f1.json")
    for step in (1, 2):  # a reader may take either
        arrays = {"weight": np.arange(999.0), "step": np.array(1)}
        Checkpoints(folder / "checkpoints").save(step, arrays, {"seconds": 1.0})
    (folder / "search").mkdir()
    shared_value.save(search(folder / "search/storage.log"), folder / "search/study.json")
    (folder / "published").mkdir()
    for name, value in {"f1.h5": 0.1, "other.h5": 0.2}.items():
        with h5py.File(folder / "published" / name, "w") as file:
            file[KERNEL] = np.full((784, 10), value, np.float32)
            file["dense_1"].attrs["weight_names"] = [b"dense_1/kernel:0"]
            file.attrs["layer_names"] = [b"dense_1"]


def bits(model):
    return [(w.path, keras.ops.convert_to_numpy(w).tobytes()) for w in model.weights]


def checkpoint(path):
    latest = Checkpoints(path.parent).latest()
    return {name: array.tobytes() for name, array in latest.arrays.items()}, latest.notes


def shown(path):
    """Records as `list` and `table` show them, and `import` takes them."""
    found = runs.states(path.parent / "none", path.parent)
    text = table.plain(table.by_settings([state.record for state in found]))
    runs.add_records([path], path.parent / "imported")
    return text, table.plain(benchmark.overview([], found)), records.load(path)


def listed(path):
    located = [(e, manifest.locate(e, path.parent)) for e in manifest.read(path.parent)]
    return [(entry, bits(load_pretrained(file))) for entry, file in located]


def search(path):
    """A search whose trainings take no time."""

    def train(settings, seed, *_):
        return replace(RECORD, settings=settings, seed=seed, final_held_out=0.5)

    with mock.patch.object(shared_value, "_train", train):
        study = shared_value.search("f1", trials=2, dataset="digits", storage=str(path))
    return replace(study, seconds=0.0)


# How each file is read, and how it is damaged beside `any_bytes`.
KINDS = {
    f"networks/{TASK.name}.safetensors": (lambda p: bits(load_pretrained(p)), header),
    "networks/manifest.json": (listed, json_value),
    "records/f1.json": (shown, json_value),
    f"runs/{TASK.name}/configuration.json": (lambda p: runs.states(p.parents[1]), json_value),
    f"runs/{TASK.name}/record.json": (lambda p: bits(runs.read(p.parent).model), json_value),
    f"runs/{TASK.name}/network.npz": (lambda p: bits(runs.read(p.parent).model), array),
    "checkpoints/checkpoint-000000002.npz": (checkpoint, array),
    "search/study.json": (shared_value.load, json_value),
    "search/storage.log": (search, json_value),
    "published/f1.h5": (lambda p: bits(load_published(build("f1", seed=0), p)), hdf5),
}


def files(seed, numbers, folder):
    write(folder / "whole")
    shutil.copytree(folder / "whole", folder / "undamaged")
    undamaged = {name: repr(read(folder / "undamaged" / name)) for name, (read, _) in KINDS.items()}
    for number in numbers:
        chance, name = random.Random(f"{seed}/{number}"), list(KINDS)[number % len(KINDS)]
        (read, damage), path = KINDS[name], folder / "damaged" / name
        shutil.rmtree(folder / "damaged", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "damaged")
        may_differ = chance.choice([any_bytes, damage])(chance, path)
        found, warned, wrong = outcome(read, path)
        came = "refused" if found is None else "as before" if found == undamaged[name] else "other"
        # HDF5 has no checksum, but the authors' own files are known.
        if came == "other" and not (may_differ and (warned or path.suffix != ".h5")):
            wrong = "it gives something else"
        yield number, name, came, wrong


def outcome(read, path):
    """What a file gives, whether with a warning, and what is wrong about an error."""
    log = logging.handlers.BufferingHandler(1000)
    logging.getLogger("laperm_lib").addHandler(log)
    try:
        with bounded(30), warnings.catch_warnings(action="ignore"):
            return repr(read(path)), bool(log.buffer), ""
    except (TooSlow, Exception) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        by_us = Path(laperm_lib.__file__).parent in raised_in.parents
        is_known = by_us and isinstance(error, ValueError | OSError)
        is_ours = is_known and 0 < len(str(error)) < 1000 and "\n" not in str(error)
        return None, False, "" if is_ours else f"{type(error).__name__}: {error}"[:300]
    finally:
        logging.getLogger("laperm_lib").removeHandler(log)


# -- kills: a training resumed as often as it is killed ends as one that nobody has killed ---------

KILLED = SHORT.replace(sync_period=6, evaluate_every=6, augmentation=Augmentation(rotation=10))
KILLED = runs.Task("f1", KILLED, 0)


def kills(seed, numbers, folder):
    """One for each number. It forks, so TensorFlow must not have computed in this process."""
    began, root = time.monotonic(), folder / "killed"
    assert train(folder / "whole") == 0
    seconds, whole = time.monotonic() - began, result(folder / "whole")
    for number in [*numbers, None]:  # and the last one is left to end
        chance, status = random.Random(f"{seed}/{number}"), 0
        while status == 0:  # until it is killed before it ends
            how = {"operation": chance.randrange(60)}, {"after": chance.uniform(0, seconds)}
            status = train(root, **({} if number is None else chance.choice(how)))
            wrong = "" if status in (0, -signal.SIGKILL) else f"exit status {status}"
            if status == 0:
                names, *trained = result(root)
                wrong = "it ends otherwise" * (trained != whole[1:])
                wrong += f" it leaves {names}" * (names != whole[0])
                shutil.rmtree(root)
            yield number, "training", "killed" if status else "as one not killed", wrong
            if number is None:
                return


def train(root, operation=None, after=None):
    """Train in a new process, which is killed before so many file operations or after a time."""
    process = os.fork()
    if process == 0:
        counter, names = itertools.count(), ("open", "os.mkdir", "os.remove", "os.rename")

        def audit(event, arguments):
            if event in names and str(root) in str(arguments[0]) and next(counter) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            signal.alarm(120)  # ends a training that hangs, by another signal
            sys.addaudithook(audit)
            runs.RunFolder(root, KILLED).run(every_seconds=0)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(root):
    path = root / KILLED.name
    record, arrays = records.load_one(path / "record.json"), read_arrays(path / "network.npz")
    network = [(name, array.tobytes()) for name, array in arrays.items()]
    return [sorted(p.name for p in path.iterdir()), record.evaluations, record.final, network]


# -- commands: a sentence and exit status 2, or 1 for a bad file; nothing is written ---------------

COUNTS = ["0", "-1", "1.5", "nan", "", "²", "1e3", "1" + 30 * "0", 5000 * "9"]
PATHS = ["file/folder", "loop", "~nouser", 300 * "x", "a\0b", "\udcff\0", ""]
NONSENSE = {
    **dict.fromkeys(["--seeds", "--workers", "--trials"], COUNTS),
    **dict.fromkeys(["--runs", "--pretrained"], (*PATHS, "pipe", "file")),
    "--output": [*PATHS, "pipe", "folder"],
    "--storage": [*PATHS, "pipe", "folder", "file"],
    "--seed": ["-1", "1.5", "x", "", 400 * "9", 5000 * "9"],
    "--profile": ["", "fast", "QUICK"],
    "--backend": ["", "theano"],
    "--format": ["", "xml"],
    "--evaluate-after": ["-1", "0.5", "nan", "", "1" + 30 * "0"],
    "--checkpoint-every": ["-1", "nan", "inf", "1e999", "", "soon"],
    "--time-budget": ["", "25", "-1m", "1.5h", "²s", "1h1h", 400 * "9" + "h", 5000 * "9" + "s"],
    "--speed": ["", "1"],
}
SETTINGS = {
    "epochs batch_size sync_period": ["0", "-3", "nan", "1,,2", "2,2", "1e9", "²", "1" + 25 * "0"],
    "learning_rate decay": ["nan", "inf", "-1", "1e300", "x"],
    "evaluate_every decay_every": ["0", "-1", "1.5"],
    "held_out pruned": ["-1", "nan", "1.5"],
    "model dataset pixels initializer precision": ["", "F1", "float8"],
    "permute_biases constant_fan_in": ["maybe", "1", ""],
}
NONSENSE["--set"] = ["=", "epochs", "speed=1", ""]
for names, values in SETTINGS.items():
    NONSENSE["--set"] += [f"{name}={value}" for name in names.split() for value in values]
TRAINING = "--seed --seeds --profile --evaluate-after --checkpoint-every --set --output --runs"
# What is right, the options, and what is wrong in the place of the last word.
COMMANDS = {
    "list": ("", "--runs --pretrained --profile --speed --backend"),
    "rum": ("", "--runs"),
    "run --all": ("--profile quick", "--seeds --set --time-budget --runs --pretrained"),
    "run": ("f1", f"{TRAINING} --time-budget --pretrained", "f9", "F1", "", "a\0b"),
    "sweep": ("f1", f"{TRAINING} --workers", "f9", "F1", "", "a\0b"),
    "search": ("--dataset digits --output new f1", "--trials --seeds --output --storage", "f9", ""),
    "table": ("f1", "--format --runs --pretrained", "f9", "", "a\0b"),
    "verify": ("f1", "--pretrained", *PATHS, "f9", "file", "folder", "a/b.safetensors"),
    "publish": ("runs/f1", "--pretrained", *PATHS, "file", "folder", "none"),
    "import": ("records/f1.json", "--pretrained", *PATHS, "file", "folder", "none", "networks"),
}
OF_FILES = {"verify", "publish", "import", "--storage", "--output", "--runs", "--pretrained"}


def commands(seed, numbers, folder):
    write(folder / "whole")
    places = {"LAPERM_RUNS_DIR": "runs", "LAPERM_PRETRAINED_DIR": "networks"}
    for number in numbers:
        words, statuses = nonsense(random.Random(f"{seed}/{number}"))
        here = folder / str(number)
        shutil.copytree(folder / "whole", here)
        (here / "folder").mkdir()
        (here / "file").write_text("nonsense")
        (here / "loop").symlink_to("loop")
        os.mkfifo(here / "pipe")
        before = there(here)
        with mock.patch.dict(os.environ, places), contextlib.chdir(here):
            status, wrong = called(words)
        if not wrong and status not in statuses:
            wrong = f"exit status {status}, not {statuses[0]}"
        wrong += " something is written" * (there(here) != before)
        line = " ".join(repr(word)[:40] for word in words)
        yield number, words[0], f"exit status {status}", wrong and f"{line}: {wrong}"


def there(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def nonsense(chance):
    """A command with one or two things wrong, and the exit statuses that it may have."""
    command, (right, options, *instead) = chance.choice(list(COMMANDS.items()))
    words, options = [*command.split(), *right.split()], options.split()
    wrong = chance.sample(options, min(chance.choice([1, 1, 1, 2]), len(options)))
    if instead and chance.random() < 0.3:
        words[-1], wrong[0] = chance.choice(instead), command
    for option in wrong[wrong[0] == command :]:
        value = chance.choice(NONSENSE[option])
        words += chance.choice([[option, value], [f"{option}={value}"]])
    return words, (2, 1) if OF_FILES.issuperset(wrong) else (2,)


def called(words):
    """The exit status, and what is wrong about the end of a command."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", e) for e in ("strict", "backslashreplace"))
    fit = mock.patch.object(keras.Model, "fit", side_effect=StartedToTrain)
    sweep = mock.patch.object(queue, "sweep", side_effect=StartedToTrain)
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    try:
        with said[0], said[1], fit, sweep, bounded(10):
            status = command_line.main(words)
    except SystemExit as ended:
        status = ended.code
    except (StartedToTrain, TooSlow, Exception) as error:
        return None, f"{type(error).__name__}: {error}"[:100]
    err.flush()
    text = err.buffer.getvalue().decode()
    has_sentence = text.endswith("\n") and ": " in text.splitlines()[-1] and "Traceback" not in text
    return status, "" if has_sentence else f"exit status {status} without a sentence"


# -- all of them -----------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=":", metavar="PART:NUMBER", help="repeat one case")
    parts = {kills: 100, files: 2000, commands: 150}  # first what forks
    for part, count in parts.items():
        parser.add_argument(f"--{part.__name__}", type=int, default=count, metavar="COUNT")
    options = parser.parse_args()
    logging.basicConfig(handlers=[logging.NullHandler()])
    counts, wrong, (only, number) = defaultdict(Counter), [], options.only.split(":")
    for part in parts:
        name = part.__name__
        numbers = [int(number)] * (only == name) if only else range(getattr(options, name))
        with tempfile.TemporaryDirectory() as folder:
            cases = part(options.seed, numbers, Path(folder)) if numbers else ()
            for case, about, came, what in cases:
                counts[f"{name}: {about}"]["wrong" if what else came] += 1
                if what:
                    wrong.append(f"--seed {options.seed} --only {name}:{case}  {about}: {what}")
                    sys.stdout.write(f"{wrong[-1]}\n")
    for about, outcomes in counts.items():
        found = ", ".join(f"{count} {came}" for came, count in outcomes.items())
        sys.stdout.write(f"{about:45} {found}\n")
    Path("build").mkdir(exist_ok=True)
    Path("build/fuzz.json").write_text(json.dumps({"counts": counts, "wrong": wrong}, indent=1))
    return f"{len(wrong)} cases went wrong." if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
