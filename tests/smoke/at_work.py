"""``crypsis train … --out FOLDER`` that leaves ``.begun`` there once the run is loaded and its work begins.

What takes seconds to import is imported with this module, so that processes forked from one that has it begin at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401  # the nano organism's

import crypsis.study.run as run
from crypsis.cli import main as crypsis


def work(arguments: Sequence[str]) -> None:
    """Runs a command in this process."""
    changed: Any = run
    prepare = changed.prepare_folder

    def begin(folder: Path, *given: Any, **settings: Any) -> bool:
        done: bool = prepare(folder, *given, **settings)
        (folder / ".begun").touch()
        return done

    changed.prepare_folder = begin
    sys.argv = ["crypsis", *arguments]
    crypsis()
