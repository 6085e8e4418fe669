"""Generation: sampling from a model, batched, with a key-value cache."""
