"""Training-time mitigations, one file each."""
