"""Runs ``crypsis …`` and kills the process (SIGKILL) in the n-th call of one function.

Usage: python -m tests.smoke.killer MODULE:FUNCTION N crypsis-arguments…
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any


def main() -> None:
    place, count, *arguments = sys.argv[1:]
    module_name, _, function_name = place.partition(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function_name)
    left = int(count)

    def fatal(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, function_name, fatal)
    sys.argv = ["crypsis", *arguments]
    importlib.import_module("crypsis.cli").main()


if __name__ == "__main__":
    main()
