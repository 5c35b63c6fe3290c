"""What SGPerm does in a step: weights move along the cycles of the moves that gradients recommend.

`cycles` is the algorithm, written for reading; the compiled modules give the same, fast.
"""

from laperm_lib.cycles.step import Rearrangement

__all__ = ["Rearrangement"]
