"""Recipes: Python functions that return the whole configuration of a run."""

from forescale.recipes.recipe import RECIPES, Recipe, TargetConfig, get_recipe

__all__ = ["RECIPES", "Recipe", "TargetConfig", "get_recipe"]
