"""What RSO is made of: moves of single weights, and the losses of a network with such a move."""
