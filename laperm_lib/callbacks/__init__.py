"""Callbacks of `fit`: averages of sampled weights, gradient flow, networks synchronised in time."""

from laperm_lib.callbacks.gradient_flow import GradientFlowHistory
from laperm_lib.callbacks.lookahead import Lookahead
from laperm_lib.callbacks.pswa import PSWA
from laperm_lib.callbacks.pswm import PSWM
from laperm_lib.callbacks.pwalks import PWALKS
from laperm_lib.callbacks.swa import SWA
from laperm_lib.callbacks.synchronising import SynchroniseAtEpochEnd

__all__ = [
    "PSWA",
    "PSWM",
    "PWALKS",
    "SWA",
    "GradientFlowHistory",
    "Lookahead",
    "SynchroniseAtEpochEnd",
]
