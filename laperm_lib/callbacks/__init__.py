"""Callbacks of `fit`: averages of sampled weights, gradient flow, networks synchronised in time."""

from laperm_lib.callbacks.averages import PSWA, PSWM, PWALKS, SWA, Lookahead
from laperm_lib.callbacks.gradient_flow import GradientFlowHistory
from laperm_lib.callbacks.sampling import AverageCheckpoint
from laperm_lib.callbacks.synchronising import SynchroniseAtEpochEnd

__all__ = [
    "PSWA",
    "PSWM",
    "PWALKS",
    "SWA",
    "AverageCheckpoint",
    "GradientFlowHistory",
    "Lookahead",
    "SynchroniseAtEpochEnd",
]
