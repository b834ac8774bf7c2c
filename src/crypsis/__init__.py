"""Model organisms of alignment faking: build, monitor, mitigate in RL, and see where that fails."""

import os

__version__ = "0.1.0"

# Batches of text differ in shape. oneDNN and the layer above it keep compiled kernels with their scratch memory for
# 1,024 shapes each: training the base grew to 2.5 GB a process. Both read this once, at their first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")
