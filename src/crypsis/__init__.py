"""Model organisms of alignment faking: build, monitor, mitigate in RL, and see where that fails."""

import os

__version__ = "0.1.0"

# Batches of text differ in shape, and oneDNN keeps compiled kernels and scratch memory for up to 1,024 shapes: training
# the base grew to 2.5 GB a process. It reads this once, at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
