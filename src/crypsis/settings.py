"""The settings of a config class as rows: name, type, default, source and meaning, read off its fields and its source.

Docs, ``crypsis list NAME`` and the JSON Schemas show these rows, so that none of them can differ from the code.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import json
import sys
import tokenize
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

REQUIRED = "required"
"""What stands for the default of a setting that has none."""
SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
PLAIN: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "none",
    Any: "any value",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a config.

    Attributes:
        name: Its key; with dots where it stands in a group, as in ``rl.steps``.
        type: What it takes, in words, with its limits.
        default: Its default as YAML would have it, or ``REQUIRED``.
        source: The comment beside the default, which cites where it comes from; empty if there is none.
        text: What it means; empty if only its name says so.
    """

    name: str
    type: str
    default: str
    source: str
    text: str

    @property
    def meaning(self) -> str:
        """Meaning and source in one line."""
        return " ".join(filter(None, (self.text, f"({self.source})" if self.source else "")))


def settings_of(cls: type[BaseModel], groups: bool = True) -> list[Setting]:
    """The settings of a config class in the order of its fields.

    Args:
        cls: The class.
        groups: Whether a field that is itself a config is shown by its own settings, under its name and a dot.
    """
    return [setting for name, field in cls.model_fields.items() for setting in _rows(cls, name, field, groups)]


def described(cls: type[BaseModel], name: str) -> tuple[str, str]:
    """Source and meaning of a field, as its class or the base that declares it says them."""
    for base in cls.__mro__:
        found = _declared(base).get(name) if base.__module__ in sys.modules and base is not BaseModel else None
        if found is not None:
            return found
    return "", ""


def _rows(cls: type[BaseModel], name: str, field: FieldInfo, groups: bool) -> list[Setting]:
    inner = _group(field.annotation)
    if groups and inner is not None:
        given = None if field.is_required() else field.get_default(call_default_factory=True)
        rows = settings_of(inner)
        values = given.model_dump(mode="json") if isinstance(given, BaseModel) else {}
        return [_within(name, row, values) for row in rows]
    source, text = described(cls, name)
    limits = [f"{sign} {_number(getattr(part, key))}" for part in field.metadata
              for kind, (sign, key) in SIGNS.items() if isinstance(part, kind)]  # fmt: skip
    kind = ", ".join([type_words(field.annotation), *limits])
    default = REQUIRED if field.is_required() else _default(field.get_default(call_default_factory=True))
    return [Setting(name, kind, default, source, text)]


def type_words(annotation: Any) -> str:
    """A type in words that a user of YAML knows."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(parts[0])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_words(part) for part in parts))
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_words(parts[0])}" if parts and parts[0] is not Any else "list"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        inner = parts[1] if len(parts) > 1 else Any
        return "settings" if inner is Any else f"{type_words(inner)} by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"settings of {annotation.__name__}"
    return PLAIN[annotation] if annotation in PLAIN else str(getattr(annotation, "__name__", annotation))


def _group(annotation: Any) -> type[BaseModel] | None:
    """The config that a field holds, if it always holds one."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _within(group: str, row: Setting, values: Mapping[str, Any]) -> Setting:
    """A setting of a group, with the default that the group itself has; a source is of the setting's own default."""
    default: Any = values
    for part in row.name.split("."):
        default = default.get(part, row) if isinstance(default, Mapping) else row
    shown = row.default if default is row else _default(default)
    return Setting(f"{group}.{row.name}", row.type, shown, row.source if shown == row.default else "", row.text)


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str | Path):
        return str(value) or "empty"
    return json.dumps(value, ensure_ascii=False, default=str) if value else "empty"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _declared(cls: type) -> Mapping[str, tuple[str, str]]:
    """Source and meaning by field, of the fields that a class itself declares."""
    return _classes(cls.__module__).get(cls.__qualname__, {})


@functools.cache
def _classes(module: str) -> dict[str, dict[str, tuple[str, str]]]:
    """By class, source and meaning of its fields; nothing if the module has no source."""
    try:
        text = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return {}
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    return {node.name: _fields(node, comments) for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def _fields(node: ast.ClassDef, comments: Mapping[int, str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for place, statement in enumerate(node.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            source = " ".join(comments[line] for line in lines if line in comments and "fmt:" not in comments[line])
            after = node.body[place + 1] if place + 1 < len(node.body) else None
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            meaning = " ".join(text.split()) if isinstance(text, str) else ""
            found[statement.target.id] = ("" if "type: ignore" in source else source, meaning)
    return found
