"""SGPerm's step: `reference` is written for reading, `compiled` gives the same bits, fast."""
