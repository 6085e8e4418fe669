"""The ladder: which small runs to train for a target, how to train each, and how to train them side by side."""
