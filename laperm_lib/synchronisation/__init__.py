"""The synchronisation of LaPerm, fast: `laperm_lib.permutation` is the reference it equals.

`step` chooses: compiled code on the CPU, tensor operations on accelerators and under XLA.
"""
