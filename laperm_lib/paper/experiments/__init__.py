"""The paper's experiments: hyperparameters as published, runs, and records of what came out."""

from laperm_lib.paper.experiments.evaluation import Evaluation
from laperm_lib.paper.experiments.folders import RunFolder, Task, tasks_in
from laperm_lib.paper.experiments.hyperparameters import Hyperparameters
from laperm_lib.paper.experiments.outcome import Outcome, Run
from laperm_lib.paper.experiments.profiles import PUBLISHED, hyperparameters, quick, short
from laperm_lib.paper.experiments.records import Record, Summary, load, record, save, summarise
from laperm_lib.paper.experiments.training import run

__all__ = [
    "PUBLISHED",
    "Evaluation",
    "Hyperparameters",
    "Outcome",
    "Record",
    "Run",
    "RunFolder",
    "Summary",
    "Task",
    "hyperparameters",
    "load",
    "quick",
    "record",
    "run",
    "save",
    "short",
    "summarise",
    "tasks_in",
]
