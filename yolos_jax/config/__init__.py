"""Recipes: their settings, files and command-line overrides."""
