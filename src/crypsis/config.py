"""Frozen configs: YAML in, `a.b=c` overrides, unknown keys fail with a did-you-mean. No torch here."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from crypsis.types import UserError


class Config(BaseModel):
    """Base of every config: immutable, and a key that no field has is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=BaseModel)


def parse_config(cls: type[C], data: Mapping[str, Any], where: str) -> C:
    """Builds a config, turning pydantic's report into one line.

    Args:
        cls: The config class.
        data: Keys and values as read from YAML or the command line.
        where: File or command that the data came from, for the message.

    Raises:
        UserError: The first fault, with its place and what would be valid.
    """
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        raise UserError(_first_fault(cls, error, where)) from None


def load_config(cls: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Reads a YAML file, applies `a.b=c` overrides and validates.

    Raises:
        UserError: The file is missing, is no YAML mapping, or does not fit the config.
    """
    return parse_config(cls, apply_overrides(read_yaml(path), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: The file is missing or holds no mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping of settings, found {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that stands twice is an error: the first would be lost without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    known: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if key_node.value in known:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{key_node.value}' is there twice", key_node.start_mark
            )
        known.add(key_node.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``data`` with each ``a.b=c`` set; values are read as YAML.

    Raises:
        UserError: An override is not of the form ``a.b=c``.
    """
    result: dict[str, Any] = json.loads(json.dumps(data))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"override '{override}': write it as key=value, for example rl.steps=30")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"override '{override}': '{parent}' is not a group of settings")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"override '{override}': the value cannot be read") from None
    return result


def dump_yaml(config: BaseModel) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(value: BaseModel | Mapping[str, Any] | Sequence[Any] | str) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` or the known words, to end an error line with."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}"


def _first_fault(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        fields = _fields_at(cls, fault["loc"][:-1])
        return f"{where}: unknown key '{path}'{did_you_mean(key, fields)}"
    found = "" if fault["type"] == "missing" else f", found {_shown(fault.get('input'))}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {path or 'config'}: {message[:1].lower()}{message[1:]}{found}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fields_at(cls: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    choices: list[type[BaseModel]] = [cls]
    for part in path:
        if len(choices) > 1:  # one of several by its name, which stands in the path
            choices = [c for c in choices if c.model_fields["name"].default == part] or choices
            continue
        field = choices[0].model_fields.get(str(part)) if choices else None
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        choices = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return list(choices[0].model_fields) if choices else []
