"""Intervals and tests over seeds and requests. No torch here."""
