"""Model organisms of alignment faking: build, monitor, mitigate in RL, and see where that fails.

The names of the Python interface (``crypsis.load_policy``, …) are documented in ``crypsis.api`` and imported when they
are first used.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crypsis.api import build_organism as build_organism
    from crypsis.api import evaluate as evaluate
    from crypsis.api import judge as judge
    from crypsis.api import load_policy as load_policy
    from crypsis.api import open_study as open_study
    from crypsis.api import plot as plot
    from crypsis.api import sample as sample
    from crypsis.api import train as train
    from crypsis.api import train_monitor as train_monitor
    from crypsis.types import Episode as Episode
    from crypsis.types import UserError as UserError
    from crypsis.types import Verdict as Verdict
else:
    _TYPES = ("Episode", "UserError", "Verdict")

    def __getattr__(name: str) -> Any:
        """Imports a name of the Python interface (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'crypsis' has no attribute '{name}'")
        from importlib import import_module

        value = globals()[name] = getattr(import_module("crypsis.types" if name in _TYPES else "crypsis.api"), name)
        return value

    def __dir__() -> list[str]:
        """The names that there are, those that are not imported yet included."""
        return sorted({*globals(), *__all__})


__all__ = [
    "Episode", "UserError", "Verdict", "build_organism", "evaluate", "judge", "load_policy", "open_study", "plot",
    "sample", "train", "train_monitor",
]  # fmt: skip
__version__ = "0.2.0"

# Batches of text differ in shape. oneDNN and the layer above it keep compiled kernels with their scratch memory for
# 1,024 shapes each: training the base grew to 2.5 GB a process. Both read this once, at their first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")
