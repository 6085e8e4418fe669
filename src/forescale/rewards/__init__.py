"""Reward models, rubrics, judges, and rewards put together from them."""
