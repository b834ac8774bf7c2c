"""Intervals and tests over seeds and requests."""
