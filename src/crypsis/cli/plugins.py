"""The table of installed plug-ins, and that of one plug-in's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from crypsis.cli.console import make_console, print_json
from crypsis.types import UserError

if TYPE_CHECKING:
    from crypsis.registry import Kind
    from crypsis.settings import Setting


def show_plugins(kinds: Iterable[Kind], as_json: bool = False) -> None:
    """Prints name and first line of every plug-in of some kinds."""
    from crypsis.registry import names, summary

    rows = [(kind, name, plain(summary(kind, name))) for kind in kinds for name in names(kind)]
    if as_json:
        print_json("list", plugins=[{"kind": kind, "name": name, "summary": what} for kind, name, what in rows])
        return
    table = Table("kind", "name", "what it is")
    for row in rows:
        table.add_row(*row)
    make_console().print(table)


def plain(text: str) -> str:
    """A text of the source without its markup."""
    return re.sub(r":\w+:(?=`)|`+", "", text)


def show_plugin(name: str, as_json: bool = False) -> None:
    """Prints the settings of every plug-in that has a name.

    Raises:
        UserError: There is neither a kind nor a plug-in of this name.
    """
    from crypsis.config import did_you_mean
    from crypsis.registry import BUILT_IN, names, summary

    kinds = [kind for kind in BUILT_IN if name in names(kind)]
    if not kinds:
        known = [*BUILT_IN, *(other for kind in BUILT_IN for other in names(kind))]
        raise UserError(f"list: '{name}' is neither a kind nor a plug-in{did_you_mean(name, known)}")
    found = [(kind, plain(summary(kind, name)), _settings(kind, name)) for kind in kinds]
    if as_json:
        plugins: list[dict[str, Any]] = [
            {"kind": kind, "name": name, "summary": what, "settings": [asdict(row) for row in rows]}
            for kind, what, rows in found
        ]
        print_json("list", plugins=plugins)
        return
    console = make_console()
    for kind, what, rows in found:
        console.print(f"{kind}: {name}: {what}", soft_wrap=True)
        console.print(_table(rows) if rows else "it has no settings")


def _settings(kind: Kind, name: str) -> list[Setting]:
    """The settings of a plug-in; readers of transcripts have none."""
    from pydantic import BaseModel

    from crypsis.registry import find
    from crypsis.settings import settings_of

    cls = find(kind, name)
    return settings_of(cls) if isinstance(cls, type) and issubclass(cls, BaseModel) else []


def _table(rows: Sequence[Setting]) -> Table:
    table = Table("setting", "type", "default", "meaning, source of the default")
    for row in rows:
        table.add_row(row.name, row.type, row.default, plain(row.meaning))
    return table
