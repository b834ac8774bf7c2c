"""The one way to the terminal: what is printed is text, and no character of it acts."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from crypsis.types import visible


def make_console(quiet: bool = False) -> Console:
    """A console on which names and texts of models are text: no markup, no emoji codes, no control characters."""
    console = Console(quiet=quiet, markup=False, emoji=False, highlight=False)
    console.push_render_hook(_Inert())
    return console


LAYOUT = 1
"""Version of the JSON documents; a new number means that a field has another name or another meaning."""


def print_json(document: str, **fields: Any) -> None:
    """Prints a document of ``--json`` (docs/json_output.md): pure ASCII, and null for numbers that JSON does not have.

    Args:
        document: Which one it is.
        fields: What it holds.
    """
    whole = {"document": document, "layout": LAYOUT, **_plain(fields)}
    print(json.dumps(whole, indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(line: str) -> None:
    """Prints one line to the standard error, whatever the text holds."""
    print(visible(" ".join(line.split())), file=sys.stderr, flush=True)


def tolerant_streams() -> None:
    """Characters that the terminal's encoding lacks are replaced instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def close_output() -> str:
    """Flushes the standard output, which may be a full disk; says why it cannot be, or nothing."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # or the interpreter would try again, and complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return getattr(error, "strerror", None) or str(error)
    return ""


class _Inert(RenderHook):
    """Shows characters that act as signs for them, in everything that a console is given to print."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)
