"""The command ``crypsis organism generate``: config from options, and a progress bar. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from crypsis.api_models import Spent
from crypsis.config import apply_overrides, parse_config
from crypsis.store import Exists
from crypsis.study.generate import GenerateConfig, generate
from crypsis.study.progress import Display


def generate_named(
    given: Mapping[str, Any], settings: Sequence[str], out: Path, exists: Exists, dry: bool, console: Console
) -> None:
    """Generates into ``out`` and shows how far it is and what it has cost.

    Raises:
        UserError: As ``generate``.
    """
    config = parse_config(GenerateConfig, apply_overrides(given, settings), "organism generate")

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with Display(console).counted("scratchpads", config.n, "answers") as show:

        def on_answer(done: int, spent: Spent) -> None:
            show(done)
            if done % 256 == 0 and spent.usd:
                say(f"{done} answers; {spent.usd:.2f} USD so far")

        generate(config, out, exists, say, on_answer, dry)
    if not dry:
        say(f"learn from it: crypsis organism build from_file path={out / 'scratchpads.jsonl'} --base MODEL")
