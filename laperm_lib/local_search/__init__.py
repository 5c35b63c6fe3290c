"""What RSO is made of: moves of single weights, the losses they would have, and the search."""

from laperm_lib.local_search.searching import Counts, Losses, check_samples, search

__all__ = ["Counts", "Losses", "check_samples", "search"]
