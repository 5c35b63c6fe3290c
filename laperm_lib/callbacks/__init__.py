"""Callbacks of `fit`: averages of sampled weights, and gradient flow; one algorithm a file."""

from laperm_lib.callbacks.gradient_flow import GradientFlowHistory
from laperm_lib.callbacks.lookahead import Lookahead
from laperm_lib.callbacks.pswa import PSWA
from laperm_lib.callbacks.pswm import PSWM
from laperm_lib.callbacks.pwalks import PWALKS
from laperm_lib.callbacks.swa import SWA

__all__ = ["PSWA", "PSWM", "PWALKS", "SWA", "GradientFlowHistory", "Lookahead"]
