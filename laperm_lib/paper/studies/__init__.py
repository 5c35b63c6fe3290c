"""Studies beside the paper's table: its relatives, and what its open cases depend on.

Each adds a method or callbacks to `laperm_lib.paper.training.run`; RSO has a loop of its own.
"""
