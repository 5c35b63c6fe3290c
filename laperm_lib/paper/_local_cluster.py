"""Dask's scheduler and workers on this machine, for the time of a sweep."""

import logging
import os
from typing import Any

import distributed

START_SECONDS = 60
"""How long a worker may take to start: 5 s are usual, on a busy machine 20."""


class _Unserved:
    """No HTTP server: Dask starts one also where it is told that no dashboard is wanted."""

    def start_http_server(self, *args: Any, **how: Any) -> None:
        pass


class _Scheduler(_Unserved, distributed.Scheduler):
    pass


class _Worker(_Unserved, distributed.Worker):
    def __init__(self, *args: Any, **how: Any) -> None:
        # Ctrl-C in a terminal goes to all its processes; the sweep tells workers itself.
        if hasattr(os, "setsid"):
            os.setsid()
        super().__init__(*args, **how)


def start(workers: int) -> distributed.SpecCluster:
    """Start workers of a process and a thread each: Keras trains one network in a process."""
    options = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "worker_class": _Worker,
        "death_timeout": START_SECONDS,
        "memory_limit": 0,  # beyond one, Dask gives a worker nothing more to do, for ever
        "silence_logs": logging.CRITICAL,
    }
    return distributed.SpecCluster(
        scheduler={
            "cls": _Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard": False},
        },
        workers={n: {"cls": distributed.Nanny, "options": options} for n in range(workers)},
        silence_logs=logging.CRITICAL,
    )
