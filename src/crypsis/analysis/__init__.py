"""Statistics, figures, report."""
