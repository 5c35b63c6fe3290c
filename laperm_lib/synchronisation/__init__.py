"""LaPerm's synchronisation, fast: `laperm_lib.permutation` is the reference that it equals."""
