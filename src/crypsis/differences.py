"""How the config and the inputs of a folder differ from those that it is to be used with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Inputs = Mapping[str, Mapping[str, str]]
"""Digests of parts, keyed by place in a config (dotted), ``code``, or another name."""
LIMITS = frozenset({"budget_usd", "budget_tokens", "prices"})
"""Settings of chat models that say what they may cost: they do not change what comes out, and may be raised."""
SHOWN = 3
"""Changed parts that a message names."""


def config_difference(old: Any, new: Any, by_content: Collection[str] = ()) -> str:
    """The first setting in which two configs differ, in words; empty if there is none.

    Args:
        old: Plain settings.
        new: Plain settings.
        by_content: Dotted places that are compared elsewhere, by what they name.
    """
    found = _first_difference(old, new, by_content, "")
    return f"with another config ({found})" if found else ""


def input_difference(old: Inputs, new: Inputs, config: Mapping[str, Any]) -> str:
    """The inputs that changed, in words; empty if none did. Inputs that only one side has are not compared.

    Args:
        old: Inputs that a folder was made from.
        new: Those that it is to be used with.
        config: Plain settings, which name the files.
    """
    lines = []
    for place in sorted(old.keys() & new.keys()):
        before, now = old[place], new[place]
        changed = sorted(part for part in before.keys() | now.keys() if before.get(part) != now.get(part))
        if changed:
            names = [part or Path(str(_at(config, place))).name for part in changed]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{place} changed: {', '.join(names[:SHOWN])}{more}")
    return f"from other inputs ({'; '.join(lines)})" if lines else ""


def within(value: Any, places: Collection[str], root: Path, place: str = "") -> Any:
    """Plain settings in which the paths at some places that lie in a folder are relative to that folder."""
    if isinstance(value, Mapping | list):
        entries = {key: within(entry, places, root, _join(place, key)) for key, entry in _entries(value)}
        return entries if isinstance(value, Mapping) else list(entries.values())
    if place in places and isinstance(value, str) and Path(value).resolve().is_relative_to(root.resolve()):
        return Path(value).resolve().relative_to(root.resolve()).as_posix()
    return value


def _first_difference(old: Any, new: Any, skip: Collection[str], place: str) -> str:
    if place in skip:
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in sorted((set(old) | set(new)) - LIMITS)]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{place}: {old!r} there, {new!r} here"
    for key, before, after in pairs:
        if found := _first_difference(before, after, skip, _join(place, key)):
            return found
    return ""


def _at(value: Any, place: str) -> Any:
    """The value at a dotted place; a key may have dots of its own."""
    if not place:
        return value
    for key, entry in _entries(value):
        if place == str(key) or place.startswith(f"{key}."):
            return _at(entry, place[len(str(key)) + 1 :])
    return ""


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from enumerate(value)


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)
