"""The optimizers LaPerm, SGPerm and RSO, one algorithm per file, and what they share."""
