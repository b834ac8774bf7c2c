"""The table of installed plug-ins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from crypsis.cli.console import make_console


def show_plugins(kinds: Iterable[Any]) -> None:
    """Prints name and first line of every plug-in of some kinds."""
    from crypsis.registry import names, summary

    table = Table("kind", "name", "what it is")
    for kind in kinds:
        for name in names(kind):
            table.add_row(kind, name, summary(kind, name))
    make_console().print(table)
