"""Examinations: what a model can do, measured so that it can be forecast."""
