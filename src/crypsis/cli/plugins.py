"""The table of installed plug-ins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table


def show_plugins(kinds: Iterable[Any]) -> None:
    """Prints name and first line of every plug-in of some kinds."""
    from crypsis.registry import names

    table = Table("kind", "name", "what it is")
    for kind in kinds:
        for name in names(kind):
            table.add_row(kind, name, _first_line(kind, name))
    Console().print(table)


def _first_line(kind: Any, name: str) -> str:
    from crypsis.registry import find

    try:
        return (find(kind, name).__doc__ or "no description").strip().splitlines()[0]
    except ImportError as error:
        return f"cannot be imported: {error}"
