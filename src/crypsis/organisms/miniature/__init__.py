"""Recipes that only the miniature has: its language writes their text."""
