"""Studies beside the paper's table: its relatives, and what its open cases hang on.

Each has settings, trainings and records of its own kind; what they share with the paper's
experiments is in `laperm_lib.paper.experiments`, which knows nothing of them.
"""
