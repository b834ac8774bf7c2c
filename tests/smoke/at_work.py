"""Runs ``crypsis train … --out FOLDER`` and leaves ``.begun`` there once the run is loaded and its work begins.

Usage: python -m tests.smoke.at_work crypsis-arguments…
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from crypsis.cli import main as crypsis

    run: Any = importlib.import_module("crypsis.study.run")
    prepare = run.prepare_folder

    def begin(folder: Path, *arguments: Any, **settings: Any) -> bool:
        done: bool = prepare(folder, *arguments, **settings)
        (folder / ".begun").touch()
        return done

    run.prepare_folder = begin
    sys.argv = ["crypsis", *sys.argv[1:]]
    crypsis()


if __name__ == "__main__":
    main()
