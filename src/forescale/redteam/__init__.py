"""Findings of human experts who attack a model, as data."""
