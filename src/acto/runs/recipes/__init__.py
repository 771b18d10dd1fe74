"""Recipes: settings by data set and by method, each number with its source."""
