"""What SGPerm does in a step: weights move along cycles of the moves that gradients recommend.

`reference` is the algorithm, written for reading; `compiled` gives the same bits, fast.
"""
