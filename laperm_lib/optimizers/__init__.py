"""Optimizers that train by rearranging weights, one algorithm per file."""
