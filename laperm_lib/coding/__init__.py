"""Trained weights as the permutation of their start alone, near the fewest bits that tell it."""

from laperm_lib.coding.arrangements import bound_bits, decode, encode

__all__ = ["bound_bits", "decode", "encode"]
