"""The command line: what each command does, says and returns, and how it ends when interrupted."""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import keras
import pytest
from short_runs import SHORT, TASK, made

from laperm_lib.__main__ import choose_backend
from laperm_lib.paper import benchmark, command_line, manifest, records
from laperm_lib.paper.command_line import _duration, setting
from laperm_lib.paper.runs import RunFolder, Task, tasks_in
from laperm_lib.paper.settings import PROFILES, PUBLISHED
from laperm_lib.paper.studies import shared_value

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs a command with `quick` cut down further, in folders of its own; gives what it says."""
    monkeypatch.setitem(PROFILES, "quick", lambda name: SHORT)
    monkeypatch.setenv("LAPERM_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("LAPERM_PRETRAINED_DIR", str(tmp_path / "pretrained"))

    def run(*words):
        status = command_line.main(words)
        said = capfd.readouterr()
        return status, said.out, said.err

    return run


def test_what_is_run_is_listed_tabled_published_and_verified(command, tmp_path, caplog):
    output = tmp_path / "f1.json"
    with caplog.at_level("INFO", logger="laperm_lib"):
        status, out, _ = command("run", "f1", "--seeds", "2", "--output", str(output))
    assert status == 0
    assert "over 2 runs" in out
    assert [record.seed for record in records.load(output)] == [0, 1]
    folders = list((tmp_path / "runs").iterdir())
    for folder in folders:
        assert f"The record and the network are in {folder}" in caplog.text

    status, out, _ = command("list", "--profile", "paper")
    assert status == 0
    assert {row.experiment for row in benchmark.ROWS} < {n.split()[0] for n in out.splitlines()}
    (line,) = [line for line in out.splitlines() if "epochs=4" in line or "quick" in line]
    assert line.split()[-1] == "2"  # finished
    status, out, _ = command("table")
    assert status == 0
    # The runs on digits are no reproduction of anything.
    assert out.count("not yet reproduced") == len(out.splitlines()) - 1
    _, out, _ = command("table", "f1", "conv2_k", "--format", "json")
    assert [line["experiment"] for line in json.loads(out)] == ["f1", *3 * ["conv2"]]

    status, out, _ = command("publish", str(folders[0]))
    assert status == 0
    assert "bits per weight" in out
    assert command("verify")[0] == 0
    (network,) = (tmp_path / "pretrained").glob("*.safetensors")
    for named in (network, network.stem, "f1"):
        status, out, _ = command("verify", str(named))
        assert status == 0
        assert f"{network.stem}: all 10 weight vectors are permutations of their initial" in out
    status, _, err = command("verify", "f3")
    assert status == 1
    assert "There is no trained network 'f3'" in err
    network.write_bytes(network.read_bytes()[:-1])
    status, out, err = command("verify", str(tmp_path / "pretrained"))
    assert status == 1
    assert "damaged" in err
    assert "0 of 1" in out
    assert command("verify", str(tmp_path / "runs"))[0] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("run f1 --evaluate-after 500", "does not fit a period"),
        ("run f1 --set precision=float8", "Unknown precision 'float8'"),
        ("run f1 --set pruned=0.5", "keep says what is pruned"),
        ("run f1 --set epochs=1,1", "given twice"),
        ("run f1 --set epochs=1 --set epochs=2", "--set epochs is given twice"),
        ("run f1 --set sync_period=fast", "sync_period is an integer"),
        ("run f1 --set epochs=none", "epochs is an integer"),
        ("run --all --seed 7", "--seed is for one experiment"),
        ("run f1 --set epochs=1" + 25 * "0", "epochs is an integer of at least 1 and"),
        ("run --all --set epochs=1" + 25 * "0", "epochs is an integer of at least 1 and"),
        ("sweep f1 --set sync_period=1" + 400 * "0", "sync_period is an integer"),
        ("run f1 --set epochs=" + 5000 * "9", "epochs is an integer"),
        ("run f1 --set permute_biases=maybe", "permute_biases is True or False"),
        ("run f1 --set decay=1e30", "highest learning rate of all epochs"),
        ("run f1 --set held_out=1437", "1437 images cannot be held out of 1437"),
        ("table f1 \0", r"Unknown experiment or sweep '\x00'"),
        (f"list --backend {'jax' if ON_TENSORFLOW else 'tensorflow'}", "already"),
    ],
)
def test_what_cannot_be_run_leaves_nothing(command, tmp_path, words, why):
    status, out, err = command(*words.split())
    assert (status, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("run", "one of the arguments experiment --all is required"),
        ("run f1 --all", "not allowed with argument"),
        ("run f1 --set speed=1", "--set: NAME=VALUE, where NAME is one of model"),
        ("run f1 --set sync_period", "--set: NAME=VALUE"),
        ("run conv3", "invalid choice: 'conv3'"),
        ("sweep conv3", "invalid choice: 'conv3'"),
        *(
            (f"run f1 --{option}={value}", f"error: argument --{option}: ")
            for option, values in {
                "seed": ("-1", "x", "1" + 30 * "0", 5000 * "9", "1.0", "", "\0"),
                "seeds": ("0", "1" + 30 * "0", "nan"),
                "evaluate-after": ("-1", "1" + 25 * "0", "none"),
                "checkpoint-every": ("-1", "inf", "nan", "1e300", ""),
                "runs": (300 * "x", "~nouser", "", "a\0b"),
                "pretrained": (300 * "x", "~nouser"),
                "data-dir": (300 * "x", "~nouser", "FILE"),
                "set": ("permute_biases=", "=", "\0=1"),
            }.items()
            for value in values
        ),
        ("run f1 --seed=--", "ends in =-- has no value"),
        ("sweep f1 --workers 1" + 30 * "0", "int from 1 to 1000"),
        *(
            (f"sweep f1 --scheduler={address}", "an address such as tcp://10.0.0.1:8786")
            for address in ("", "x", "tcp://", "tcp://a:" + 20 * "9", f"tcp://{300 * 'x'}:80")
        ),
        ("search f1 --output FOLDER/a --trials 1e9", "int from 1 to 100000"),
        ("search f1 --output FOLDER/a --storage FOLDER", "a file"),
        *(
            (f"{name} {300 * 'x'}", "File name too long")
            for name in ("verify", "publish", "import")
        ),
        ("run f1 --output FOLDER", "is not a regular file"),
        ("run f1 --output FILE/records.json", "is none"),
        ("run f1 --runs FILE", "a folder, but"),
        ("list --runs FILE/runs", "a folder, but"),
        ("table --pretrained FOLDER/none", "there is none"),
        ("verify --pretrained FILE", "there is none"),
        ("publish runs/f1 --pretrained FILE", "a folder, but"),
    ],
)
def test_words_that_are_no_command(tmp_path, capsys, words, why):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit) as ended:
        command_line.main(words.replace("FILE", str(file)).replace("FOLDER", str(tmp_path)).split())
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_settings_and_time_budgets():
    values = dict(map(setting, ["sync_period=20,none", "permute_biases=no", "decay=.5"]))
    assert values == {"sync_period": [20, None], "permute_biases": [False], "decay": [0.5]}
    texts = {"25m": 1500, "90s": 90, "2h": 7200, "1h30m": 5400, "0s": 0}
    assert {text: _duration(text) for text in texts} == texts
    for text in ("", "25", "m", "-1m", "1.5h", "1m2h", "soon", 400 * "9" + "h", "²h"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 90s"):
            _duration(text)


def test_all_runs_what_is_missing_and_stops_in_time(command, tmp_path, monkeypatch):
    planned = [Task("f1", SHORT, seed) for seed in (0, 1)]
    asked = []
    monkeypatch.setattr(benchmark, "plan", lambda *args, **more: asked.append(more) or planned)
    status, out, _ = command("run", "--all", "--time-budget", "0s", "--set", "held_out=0")
    assert (status, out) == (0, "Stopped. Runs left: 2; the same command resumes them.\n")
    assert asked == [{"seeds": None, "evaluate_after": [0], "held_out": [0]}]
    status, out, _ = command("run", "--all", "--time-budget", "5m")
    assert status == 0
    assert "over 2 runs" in out
    assert all(RunFolder(tmp_path / "runs", task).is_finished for task in planned)
    assert command("run", "--all")[:2] == (0, "")


def test_what_fails_is_a_sentence_and_does_not_stop_the_others(command, tmp_path, monkeypatch):
    status, out, err = command("run", "f1", "--set", "learning_rate=1e38,0.001")
    assert status == 1
    assert "over 1 runs" in out
    assert re.fullmatch(r"laperm_lib: f1-seed0-\w+: .* a NaN or an infinity.*\n", err)
    assert "Error" not in err
    no_data = Task("f1", PUBLISHED["f1"], 0)
    monkeypatch.setattr(benchmark, "plan", lambda *args, **more: [no_data, Task("f1", SHORT, 1)])
    status, out, err = command("run", "--all", "--data-dir", str(tmp_path))
    assert status == 1
    assert "over 1 runs" in out
    assert re.fullmatch(r"laperm_lib: f1-seed0: There is no .*\n", err)
    assert not (tmp_path / "runs" / "f1-seed0").exists()  # its training never began


@pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs Optuna")
def test_search(command, tmp_path, monkeypatch):
    def train(settings, seed, experiment, data_dir):
        record = made("f1", seed, final=0.25, evaluations=[])
        held_out = 0.5 if settings.data.held_out else None
        return replace(record, settings=settings, final_held_out=held_out)

    monkeypatch.setattr(shared_value, "_train", train)
    output = tmp_path / "study.json"
    status, out, _ = command("search", "f1", "--trials", "2", "--seeds", "3", f"--output={output}")
    assert status == 0
    assert "best of 2 trials, held out 50.00 %, test accuracy 25.00 ± 0.00 % over 3 seeds" in out
    assert len(shared_value.load(output).confirmed) == 3


def test_import(command, tmp_path, run_folder):
    """The table has what was imported; what contradicts itself leaves the folder as it was."""
    for said in ("added", "skipped, it is there already"):
        assert command("import", str(run_folder.path))[:2] == (0, f"{TASK.name}: {said}\n")
    records.save([made("f1", final=0.9), made("f1", 1, final=7.0)], tmp_path / "more.json")
    status, out, err = command("import", str(tmp_path / "more.json"))
    assert (status, out) == (1, "")
    assert "more.json: an accuracy is not a number from 0 to 1." in err
    (file,) = (tmp_path / "pretrained").glob("*.json")
    assert records.load(file) == (run_folder.record(),)
    records.save([made("f1", final=0.9)], tmp_path / "more.json")
    command("import", str(tmp_path / "more.json"))
    assert "90.00" in command("table", "f1")[1]


def test_a_package_without_networks_trains_all_the_same(command, tmp_path, monkeypatch):
    """From a wheel, or with an address in the place of a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / "none")
    for address in ("", "https://a.b/networks"):
        monkeypatch.setenv("LAPERM_PRETRAINED_DIR", address)
        assert command("run", "f1")[0] == 0
        assert "f1" in command("list")[1]
        assert "conv7" in command("table")[1]
        for words in (["verify"], ["publish", "runs"], ["import", "runs"]):
            status, _, err = command(*words)
            assert status == 1
            assert "LAPERM_PRETRAINED_DIR" in err or "no such file" in err


def test_the_backend_is_chosen_before_keras_is_imported(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    installed = ["jax", "torch"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    for words, chosen in (
        ("run f1 --seed 1", "tensorflow"),
        ("run f1 --backend jax", "jax"),
        ("run f1 --backend=torch --backend=theano", "torch"),
    ):
        choose_backend(words.split())
        assert os.environ["KERAS_BACKEND"] == chosen
    installed.clear()
    with pytest.raises(SystemExit, match="--backend jax, but jax is not installed"):
        choose_backend(["--backend", "jax"])
    assert os.environ["KERAS_BACKEND"] == "torch"


def process(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "laperm_lib", *words],
        env=os.environ | environment,
        **dict.fromkeys(("stdout", "stderr"), subprocess.PIPE),
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX (make test-backends)")
def test_jax_without_tensorflow(tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "tensorflow.py").write_text("raise ModuleNotFoundError('tensorflow')\n")
    words = ("run", "f1", "--backend", "jax", "--runs", str(tmp_path), "--set", "epochs=2")
    environment = {"PYTHONPATH": str(absent), "KERAS_BACKEND": "tensorflow"}
    with process(*words, **environment) as run:
        out, err = run.communicate()
    assert run.returncode == 0, err
    assert "over 1 runs" in out
    (record,) = records.load(next(tmp_path.glob("f1-*/record.json")))
    assert "jax" in record.environment


ENDLESS = ("f1", "--set", "epochs=20000", "--checkpoint-every", "0.2", "--runs")


def assert_stopped(folder, out, err):
    """With a checkpoint, and unlocked."""
    assert "Stopped. Runs left: 1" in out
    assert "stops after the next checkpoint" in err
    assert not re.search("Traceback|oneDNN|absl", err)
    (task,) = tasks_in(folder)
    assert RunFolder(folder, task).checkpoints.steps()
    assert not list(folder.glob("f1-*/.*"))
    with RunFolder(folder, task).lock():
        pass


def wait_for_a_checkpoint(folder, goes_on=lambda: True):
    while not list(folder.glob("*/checkpoint-*.npz")) and goes_on():
        time.sleep(0.05)


def test_ctrl_c_stops_a_run(command, tmp_path):
    def press():
        wait_for_a_checkpoint(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    status, out, err = command("run", *ENDLESS, str(tmp_path))
    thread.join()
    assert status == 128 + signal.SIGINT
    assert_stopped(tmp_path, out, err)


@pytest.mark.slow
def test_sigterm_stops_a_sweep_and_its_workers(tmp_path):
    with process("sweep", *ENDLESS, str(tmp_path)) as run:
        wait_for_a_checkpoint(tmp_path, lambda: run.poll() is None)
        os.killpg(run.pid, signal.SIGTERM)  # as `timeout` does it: to the workers too
        out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert_stopped(tmp_path, out, err)
