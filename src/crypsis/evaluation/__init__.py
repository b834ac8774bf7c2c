"""Evaluation of policies in both tiers."""
