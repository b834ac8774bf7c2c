"""JSON Schemas of the configs, for editors: generated from their classes, with the plug-ins that are installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import ModelSchema

from crypsis.config import did_you_mean
from crypsis.registry import Kind, find, names
from crypsis.run_config import RunConfig
from crypsis.settings import described
from crypsis.study.config import StudyConfig
from crypsis.types import UserError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CONFIGS: dict[str, type[BaseModel]] = {"run": RunConfig, "study": StudyConfig}
PLUGINS: dict[str, Kind] = {
    "organism": "organisms", "monitor": "monitors", "mitigation": "mitigations", "scenario": "scenarios",
}  # fmt: skip
"""Kinds of plug-ins as ``crypsis schema`` names them."""
TRAINED: JsonSchemaValue = {
    "type": "object",
    "properties": {"trained": {"type": "string"}, "organism": {"type": "string"}},
    "required": ["trained"],
    "description": "A monitor that the study trained.",
}
HOLDS: dict[tuple[str, str], Kind] = {
    ("RunConfig", "scenario"): "scenarios",
    ("RunConfig", "monitors"): "monitors",
    ("RunConfig", "mitigations"): "mitigations",
    ("RunSettings", "scenario"): "scenarios",
    ("StudyConfig", "organisms"): "organisms",
    ("StudyConfig", "monitors"): "monitors",
    ("ArmConfig", "mitigations"): "mitigations",
    ("ArmConfig", "monitors"): "monitors",
}
"""Fields that hold settings of plug-ins, which pydantic sees as dictionaries."""


def config_schema(what: str, name: str | None = None) -> JsonSchemaValue:
    """The JSON Schema (2020-12) of a config or of plug-ins.

    Args:
        what: ``run``, ``study``, or a kind of ``PLUGINS``.
        name: One plug-in of the kind; all of them if not given.

    Raises:
        UserError: There is no such config, kind or plug-in.
    """
    if what not in (*CONFIGS, *PLUGINS):
        raise UserError(f"schema: '{what}' has no schema{did_you_mean(what, [*CONFIGS, *PLUGINS])}")
    if name is not None and what in CONFIGS:
        raise UserError(f"schema: {what} takes no name, found '{name}'")
    kinds: Iterable[Kind] = PLUGINS.values() if what in CONFIGS else [PLUGINS[what]]
    classes = {(kind, n): find(kind, n) for kind in kinds for n in names(kind) if name is None or n == name}
    if not classes:
        raise UserError(f"no plug-in '{name}' among the {PLUGINS[what]}{did_you_mean(str(name), names(PLUGINS[what]))}")
    roots = [*classes.values(), *([CONFIGS[what]] if what in CONFIGS else [StudyConfig])]
    found, whole = models_json_schema([(cls, "validation") for cls in roots], schema_generator=_Described)
    places = {key: found[cls, "validation"]["$ref"].rpartition("/")[2] for key, cls in classes.items()}
    definitions: dict[str, Any] = whole["$defs"]
    for (_, plugin), place in places.items():
        _name(definitions[place], plugin)
    top: JsonSchemaValue
    if what in CONFIGS:
        _fill(definitions, places)
        top = definitions[CONFIGS[what].__name__]
    else:
        top = _any(places, PLUGINS[what])
    return {"$schema": DIALECT, "title": " ".join(filter(None, ("crypsis", what, name))), **_used(top, definitions)}


class _Described(GenerateJsonSchema):
    """Adds to each field what its class says of it, meaning and source of the default; leaves out titles of fields."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Never: a title would only repeat the field's name."""
        return False

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """The schema of a config, each field with its description."""
        found = super().model_schema(schema)
        for name, field in found.get("properties", {}).items():
            source, text = described(schema["cls"], name)
            meaning = " ".join(filter(None, (text.replace("``", "`"), f"({source})" if source else "")))
            if meaning:
                field["description"] = meaning
        return found


def _name(definition: dict[str, Any], plugin: str) -> None:
    """Adds the key that chooses a plug-in."""
    definition["properties"] = {"name": {"const": plugin}, **definition.get("properties", {})}
    definition["required"] = ["name", *definition.get("required", [])]


def _any(places: Mapping[tuple[Kind, str], str], kind: Kind) -> JsonSchemaValue:
    return {"anyOf": [{"$ref": f"#/$defs/{place}"} for (of, _), place in places.items() if of == kind]}


def _fill(definitions: dict[str, Any], places: Mapping[tuple[Kind, str], str]) -> None:
    """Puts the plug-ins' schemas where fields hold their settings."""
    for (cls, name), kind in HOLDS.items():
        if cls in definitions:
            field, value = definitions[cls]["properties"][name], _any(places, kind)
            if (cls, name) == ("ArmConfig", "monitors"):
                value["anyOf"].append(TRAINED)
            for part in field.get("anyOf", [field]):
                if part.get("type") == "array":
                    part["items"] = value
                elif part.get("type") == "object" and name in ("monitors", "organisms"):
                    part["additionalProperties"] = value
                elif part.get("type") == "object":
                    part.pop("additionalProperties", None)
                    part.update(value)
    if "ArmConfig" in definitions:
        definitions["ArmConfig"]["properties"]["rl"] = {"$ref": "#/$defs/RLConfig"}


def _used(top: JsonSchemaValue, definitions: Mapping[str, Any]) -> JsonSchemaValue:
    """A schema with the definitions that it refers to, and no others."""
    needed: dict[str, Any] = {}
    waiting: list[Any] = [top]
    while waiting:
        value = waiting.pop()
        parts: list[Any] = list(value.values()) if isinstance(value, dict) else value
        waiting += [part for part in parts if isinstance(part, dict | list)]
        place = str(value.get("$ref", "")).rpartition("/")[2] if isinstance(value, dict) else ""
        if place and place not in needed:
            needed[place] = definitions[place]
            waiting.append(definitions[place])
    return {**top, "$defs": {name: needed[name] for name in sorted(needed)}}
