"""Detectors of alignment faking, one file each."""
