"""Training: the optimizers and the loop."""
