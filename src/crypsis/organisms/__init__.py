"""Recipes of model organisms, one file each."""
