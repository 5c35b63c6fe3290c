"""How a training is brought to stop between two steps: by a time limit, or by a signal."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import keras

from laperm_lib.checkpoints import Checkpoints, SaveCheckpoints

_log = logging.getLogger(__name__)

StopCheck = Callable[[], bool]
"""Asked behind training steps; when it says yes, a checkpoint is written and training stops."""


class Stopped(Exception):
    """A training was asked to stop, and has; it can be taken up from its checkpoint."""


class Stop:
    """When trainings are to stop: after some time, or as soon as they are asked to.

    Args:
        after: in seconds from now. Default: never.

    Examples:
        >>> stop = Stop()
        >>> stop()
        False
        >>> stop.ask()
        >>> stop(), Stop(after=0)()
        (True, True)
    """

    def __init__(self, after: float | None = None) -> None:
        self._end = float("inf") if after is None else time.monotonic() + after
        self.signal: int | None = None
        self._asked = False

    def __call__(self) -> bool:
        """Whether it is time."""
        return self._asked or time.monotonic() >= self._end

    def ask(self) -> None:
        """Say that it is time."""
        self._asked = True

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT (Ctrl-C) and SIGTERM as asking; the second one interrupts at once."""

        def asked(number: int, frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked, self.signal = True, number
            # Not by print: the signal may have come in the middle of one.
            os.write(2, b"\nlaperm_lib: stops behind the next checkpoint; asked again, at once.\n")

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, asked) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def never() -> bool:
    """No, go on."""
    return False


class StopWhenAsked(keras.callbacks.Callback):
    """Stops `fit` after a step, with a checkpoint, when it is told to.

    Where the checkpoint cannot be written, on a full disk say, it stops too, with the one before.

    Args:
        stop: asked after steps.
        checkpoints: where the checkpoint is kept. With None there is none.
        notes: what goes into the checkpoint beside the state of the model.

    Attributes:
        has_stopped: whether it has.
    """

    def __init__(
        self, stop: StopCheck, checkpoints: Checkpoints | None, notes: Callable[[], Any]
    ) -> None:
        super().__init__()
        self.has_stopped = False
        self._stop, self._checkpoints, self._notes = stop, checkpoints, notes

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Ask, and stop."""
        if not self._stop():
            return
        if self._checkpoints is not None:
            now = SaveCheckpoints(self._checkpoints, every_seconds=0, notes=self._notes)
            now.set_model(self.model)
            try:
                now.save()
            except OSError as error:
                _log.warning("Stops without a new checkpoint: %s", error)
        # What fit still does, a synchronisation, comes behind the checkpoint and is thrown away.
        self.model.stop_training = self.has_stopped = True
