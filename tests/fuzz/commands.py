"""Nonsense command lines: a sentence and exit status 2, or 1 for a bad file; nothing is written."""

import contextlib
import io
import os
import random
import shutil
from unittest import mock

import keras

from fuzz import Case, TooSlow, bounded, files
from laperm_lib.paper import command_line, queue

_COUNTS = ["0", "-1", "1.5", "nan", "", "²", "1e3", "1" + 30 * "0", 5000 * "9"]
_PATHS = ["file/folder", "loop", "~nouser", 300 * "x", "a\0b", "\udcff\0", ""]
_NONSENSE = {
    **dict.fromkeys(("--seeds", "--workers", "--trials"), _COUNTS),
    "--runs": [*_PATHS, "pipe", "file"],
    "--pretrained": [*_PATHS, "pipe", "file"],
    "--output": [*_PATHS, "pipe", "folder"],
    "--storage": [*_PATHS, "pipe", "folder", "file", "cut.log"],
    "--seed": ["-1", "1.5", "x", "", 400 * "9", 5000 * "9"],
    "--profile": ["", "fast", "QUICK"],
    "--backend": ["", "theano"],
    "--format": ["", "xml"],
    "--evaluate-after": ["-1", "0.5", "nan", "", "1" + 30 * "0"],
    "--checkpoint-every": ["-1", "nan", "inf", "1e999", "", "soon"],
    "--time-budget": ["", "25", "-1m", "1.5h", "²s", "1h1h", 400 * "9" + "h", 5000 * "9" + "s"],
    "--scheduler": ["", "ftp://here", "a\0b"],
    "--speed": ["", "1"],
    "--set": """epochs=0 epochs=-3 epochs=nan epochs= epochs=1,,2 epochs=2,2 epochs=1e9 epochs=BIG
        batch_size=0 batch_size=1e9 batch_size=BIG decay_every=0 evaluate_every=0 held_out=-1
        learning_rate=nan learning_rate=inf learning_rate=-1 learning_rate=1e300 decay=nan decay=-1
        decay=1e300 pruned=2 pruned=nan pruned=-0.1 sync_period=0 sync_period=-5 sync_period=BIG
        sync_period=² precision=float8 pixels=bright model=f9 initializer=zeros dataset=mist
        permute_biases=maybe constant_fan_in=1 speed=1 = epochs""".replace(
        "BIG", "1" + 25 * "0"
    ).split(),
}
_TRAINING = "--seed --seeds --profile --evaluate-after --checkpoint-every --set --output --runs"
# What is right, the options, and what is wrong in the place of the last word.
_COMMANDS = {
    "list": ("", "--runs --pretrained --profile --speed --backend"),
    "rum": ("", "--runs"),
    "run --all": ("--profile quick", "--seeds --set --time-budget --runs --pretrained"),
    "run": ("f1", f"{_TRAINING} --time-budget --pretrained", "f9", "F1", "", "a\0b"),
    "sweep": ("f1", f"{_TRAINING} --workers --scheduler", "f9", "F1", "", "a\0b"),
    "search": ("--dataset digits --output new f1", "--trials --seeds --output --storage", "f9", ""),
    "table": ("f1", "--format --runs --pretrained", "f9", "", "a\0b"),
    "verify": ("f1", "--pretrained", *_PATHS, "f9", "file", "folder", "a/b.safetensors"),
    "publish": ("runs/f1", "--pretrained", *_PATHS, "file", "folder", "none"),
    "import": ("records/f1.json", "--pretrained", *_PATHS, "file", "folder", "none", "networks"),
}
_OF_FILES = {"verify", "publish", "import", "--storage", "--output", "--runs", "--pretrained"}
_OF_FILES |= {"--scheduler"}


class Started(BaseException):
    """A training or a cluster was about to start."""


def run(seed, numbers, folder):
    files.write(folder / "whole")
    storage = (folder / "whole/search/storage.log").read_text()
    places = {"LAPERM_RUNS_DIR": "runs", "LAPERM_PRETRAINED_DIR": "networks"}
    for number in numbers:
        words, statuses = _line(random.Random(f"{seed}/{number}"))
        here = folder / str(number)
        shutil.copytree(folder / "whole", here)
        for name, text in {"file": "[]", "cut.log": storage[:-9], "folder/file": ""}.items():
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_text(text)
        (here / "loop").symlink_to("loop")
        os.mkfifo(here / "pipe")
        before = _there(here)
        with mock.patch.dict(os.environ, places), contextlib.chdir(here):
            status, wrong = _call(words)
        if not wrong and status not in statuses:
            wrong = f"exit status {status}, not {statuses[0]}"
        wrong += "; something is written" * (_there(here) != before)
        shown = " ".join(repr(word)[:40] for word in words)
        outcome = "wrong" if wrong else f"exit status {status}"
        yield Case(number, words[0], outcome, wrong and f"{shown}: {wrong}")


def _line(chance):
    """A command with one or two things wrong, and the exit statuses that it may have."""
    command, (right, options, *nothing) = chance.choice(list(_COMMANDS.items()))
    words = [*command.split(), *right.split()]
    wrong = chance.sample(options.split(), chance.choice([1, 1, 1, min(2, len(options.split()))]))
    if nothing and chance.random() < 0.3:
        words[-1], wrong[0] = chance.choice(nothing), command
    for option in wrong[wrong[0] == command :]:
        value = chance.choice(_NONSENSE[option])
        words += chance.choice([[option, value], [f"{option}={value}"]])
    return words, (2, 1) if _OF_FILES.issuperset(wrong) else (2,)


def _sweep(*tasks, scheduler, sweep=queue.sweep, **how):
    if not scheduler:
        raise Started
    return sweep(*tasks, scheduler=scheduler, **how)


def _call(words):
    """The exit status, and what is wrong about the end of a command."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", e) for e in ("strict", "backslashreplace"))
    fit = mock.patch.object(keras.Model, "fit", side_effect=Started)
    sweep = mock.patch.object(queue, "sweep", _sweep)
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    try:
        with said[0], said[1], fit, sweep, bounded(5):
            status = command_line.main(words)
    except SystemExit as ended:
        status = ended.code
    except Started:
        return None, "it is accepted"
    except TooSlow:
        return None, "it takes more than 5 seconds"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:100]
    err.flush()
    text = err.buffer.getvalue().decode()
    has_sentence = text.endswith("\n") and ": " in text.splitlines()[-1] and "Traceback" not in text
    return status, "" if has_sentence else f"exit status {status} without a sentence"


def _there(folder):
    """All that there is, and when it was changed."""
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}
