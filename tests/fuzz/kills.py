"""Trainings killed at any moment, and resumed: they end as one that nobody has killed."""

import itertools
import os
import random
import shutil
import signal
import sys
import time
import traceback

from short_runs import SHORT

from fuzz import Case
from laperm_lib import files
from laperm_lib.paper import records
from laperm_lib.paper.augmentation import Augmentation
from laperm_lib.paper.runs import RunFolder, Task

_SETTINGS = SHORT.replace(sync_period=6, evaluate_every=6, augmentation=Augmentation(rotation=10))
_TASK = Task("f1", _SETTINGS, 0)
_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir")


def run(seed, numbers, folder):
    """A kill for each number. It forks, so TensorFlow must not have computed in this process."""
    began, root = time.monotonic(), folder / "killed"
    assert _train(folder / "whole") == 0
    seconds, whole = time.monotonic() - began, _result(folder / "whole")
    for number in [*numbers, None]:  # and the last one is left to end
        chance = random.Random(f"{seed}/{number}")
        status = 0
        while status == 0:  # until it is killed before it ends
            how = {"operation": chance.randrange(80)}, {"after": chance.uniform(0, seconds)}
            status = _train(root, **({} if number is None else chance.choice(how)))
            wrong = "" if status in (0, -signal.SIGKILL) else f"exit status {status}"
            if status == 0:
                result = _result(root)
                wrong = ", ".join(f"other {name}" for name in whole if result[name] != whole[name])
                shutil.rmtree(root)
            ended = "killed" if status else "as one not killed"
            yield Case(number, "training", "wrong" if wrong else ended, wrong)
            if number is None:
                return


def _train(root, operation=None, after=None):
    """Train in a new process, which is killed before so many file operations or after a time."""
    process = os.fork()
    if process == 0:
        try:
            signal.alarm(120)  # ends a training that hangs, by another signal
            counter = itertools.count()

            def audit(event, arguments):
                ours = event in _OPERATIONS and str(root) in str(arguments[0])
                if ours and next(counter) == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(audit)
            RunFolder(root, _TASK).run(every_seconds=0)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _result(root):
    """The network, what was measured, and which files there are."""
    path = root / _TASK.name
    record = records.load_one(path / "record.json")
    bits = [(n, array.tobytes()) for n, array in files.read_arrays(path / "network.npz").items()]
    names = sorted(each.name for each in path.iterdir())
    return {"network": bits, "record": (record.evaluations, record.final), f"files {names}": names}
