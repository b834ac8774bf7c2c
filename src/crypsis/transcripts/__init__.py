"""Readers of stored transcripts, one layout per file."""
