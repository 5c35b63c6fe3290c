"""The synchronisation of LaPerm, fast: `laperm_lib.permutation` is the reference it equals.

On the CPU weight vectors are sorted by compiled code, on all cores; on an accelerator, or inside a
program that is compiled as a whole, by tensor operations.
"""
