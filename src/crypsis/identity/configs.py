"""What a config is made from: the files that it names, by content, and the code that reads them.

Files are found without a list of fields, so that plug-ins of other packages are covered:

1. a value of a field whose type is ``Path`` (also in unions and containers);
2. a value of a field that is annotated with :class:`crypsis.config.Content`: a text that may name a file, or a
   repository of the hub;
3. any other text that has a ``/`` or a suffix and is the path of something that exists.

Settings that are plain mappings (``monitors: {x: {name: text, path: …}}``) are read by the plug-ins that have this
``name``, whatever their kind. A monitor's folder also counts the encoder that its card names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crypsis.config import Content, digest
from crypsis.differences import Inputs
from crypsis.identity.code import code_parts, plugin_modules
from crypsis.identity.files import Parts, content_parts
from crypsis.registry import BUILT_IN, Kind, find, names

CARD = "monitor.json"
LONGEST = 1024
"""Characters of a text that may still be a path."""


def inputs_of(config: BaseModel, *code: str, **more: Parts) -> Inputs:
    """What a result of a config depends on besides the config's own values.

    Args:
        config: Any config.
        code: Modules that compute the result; those of the plug-ins that the config names are added.
        more: Further parts by name. What stands at a place of the config is taken for it, and not read again.

    Raises:
        UserError: A file cannot be read.
    """
    walk = _Walk(frozenset(more))
    walk.value(config, "", ())
    modules = {*code, *(module for name in walk.plugins for module in plugin_modules(name))}
    found = walk.files | {"code": code_parts(*sorted(modules))} if modules else walk.files
    return {place: dict(parts) for place, parts in (found | more).items()}


def identity(config: BaseModel, inputs: Inputs) -> str:
    """Digest of a config and its inputs; where the files lie does not count."""
    return digest([_without(config.model_dump(mode="json"), inputs, ""), inputs])


def _without(value: Any, places: Mapping[str, Any], place: str) -> Any:
    if place in places:
        return None
    if isinstance(value, Mapping):
        return {key: _without(entry, places, join(place, key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without(entry, places, join(place, number)) for number, entry in enumerate(value)]
    return value


def join(place: str, key: object) -> str:
    """The dotted place of a key below a place."""
    return f"{place}.{key}" if place else str(key)


class _Walk:
    """Goes through a config and collects the files and plug-ins that it names."""

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known
        self.files: dict[str, Parts] = {}
        self.plugins: set[str] = set()

    def value(self, value: Any, place: str, types: tuple[Any, ...]) -> None:
        """Looks at a value; ``types`` are the annotations that it may have."""
        if isinstance(value, BaseModel):
            for key, field in type(value).model_fields.items():
                self.value(getattr(value, key), join(place, key), _types(field))
        elif isinstance(value, Mapping):
            self._mapping(value, place, types)
        elif isinstance(value, list | tuple | set | frozenset):
            for number, entry in enumerate(value):
                self.value(entry, join(place, number), types)
        elif isinstance(value, str | Path) and str(value):
            self._text(value, place, types)

    def _mapping(self, value: Mapping[Any, Any], place: str, types: tuple[Any, ...]) -> None:
        models = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        name = value.get("name")
        if isinstance(name, str) and plugin_modules(name):
            self.plugins.add(name)
            models += _plugins(name)
        fields = [(model.model_fields, key) for model in models for key in value if key in model.model_fields]
        known = {key: tuple(t for f, k in fields if k == key for t in _types(f[k])) for _, key in fields}
        for key, entry in value.items():
            self.value(entry, join(place, key), known.get(key, () if models else types))

    def _text(self, value: str | Path, place: str, types: tuple[Any, ...]) -> None:
        if place in self._known:
            return
        marks = [t for t in types if isinstance(t, Content)]
        is_path = isinstance(value, Path) or any(isinstance(t, type) and issubclass(t, Path) for t in types)
        path = _existing(str(value), sure=is_path or bool(marks))
        if path is not None and not (path.is_dir() and any(mark.kind == "file" for mark in marks)):
            self.files[place] = {**content_parts(path), **_encoder(path)}
            return
        for mark in marks:
            if mark.kind in ("model", "dataset"):
                self.files[place] = content_parts(value, mark.kind)


def _types(field: FieldInfo) -> tuple[Any, ...]:
    """Everything that a field's annotation is made of, and its marks."""
    return (*_flat(field.annotation), *field.metadata)


def _flat(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _flat(inner)


def _plugins(name: str) -> list[type[BaseModel]]:
    """Config classes of the plug-ins with a name; those that are trained also have the settings of their training."""
    kinds: list[Kind] = [kind for kind in BUILT_IN if name in names(kind)]
    found = [find(kind, name) for kind in kinds]
    return [c for c in (*found, *(getattr(f, "trainer", None) for f in found)) if _is_model(c)]


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _existing(text: str, sure: bool) -> Path | None:
    """The path that a text is, if something is there; other texts than those of path fields must look like one."""
    if len(text) > LONGEST or "\n" in text or "\0" in text:
        return None
    path = Path(text)
    if not sure and "/" not in text and not path.suffix:
        return None
    try:
        return path if path.exists() else None
    except OSError:
        return None


def _encoder(folder: Path) -> Parts:
    """The models that a trained monitor's card names and that it needs to judge."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        settings, kind = dict(card["settings"]), str(card["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    found: dict[str, str] = {}
    for model in _plugins(kind) if plugin_modules(kind) else ():
        for key, field in model.model_fields.items():
            marks = [m for m in field.metadata if isinstance(m, Content) and m.kind == "model" and not m.training]
            if marks and settings.get(key):
                found |= {f"{key}/{file}".rstrip("/"): v for file, v in content_parts(str(settings[key])).items()}
    return found
