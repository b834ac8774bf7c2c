"""Plug-ins by name: visible built-ins first, then entry points, imported only when used. No torch here."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal

from crypsis.config import Config, did_you_mean, parse_config
from crypsis.types import UserError

Kind = Literal["scenarios", "organisms", "monitors", "mitigations", "samplers"]

BUILT_IN: dict[Kind, dict[str, str]] = {
    "scenarios": {
        "miniature": "crypsis.miniature.scenario:MiniatureScenario",
        "prompt_file": "crypsis.scenarios.prompt_file:PromptFileScenario",
    },
    "organisms": {
        "from_file": "crypsis.organisms.from_file:FromFile",
        "tgg": "crypsis.organisms.tgg:TerminalGoalGuarding",
    },
    "monitors": {
        "oracle": "crypsis.monitors.oracle:OracleMonitor",
        "probe": "crypsis.monitors.probe:ProbeMonitor",
        "prompted": "crypsis.monitors.prompted:Prompted",
        "text": "crypsis.monitors.text:TextMonitor",
    },
    "mitigations": {"process_supervision": "crypsis.mitigations.process_supervision:ProcessSupervision"},
    "samplers": {
        "shared_prefix": "crypsis.rl.samplers.shared_prefix:sample",
        "padded": "crypsis.rl.samplers.padded:sample",
    },
}


def names(kind: Kind) -> list[str]:
    """Names of the built-in and the installed plug-ins of a kind."""
    installed = {e.name for e in importlib.metadata.entry_points(group=f"crypsis.{kind}")}
    return sorted({*BUILT_IN[kind], *installed})


def find(kind: Kind, name: str) -> Any:
    """Imports and returns a plug-in (a config class, or a function for samplers).

    Raises:
        UserError: No plug-in has this name.
    """
    target = BUILT_IN[kind].get(name)
    if target:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in importlib.metadata.entry_points(group=f"crypsis.{kind}"):
        if entry.name == name:
            return entry.load()
    raise UserError(f"no plug-in '{name}' among the {kind}{did_you_mean(name, names(kind))}")


def make(kind: Kind, spec: Mapping[str, Any], where: str) -> Any:
    """Builds a plug-in from ``{name: …, field: value, …}``.

    Args:
        kind: Which kind of plug-in.
        spec: Its name and settings as they stand in YAML.
        where: File or key that the spec came from, for messages.

    Raises:
        UserError: Unknown name or setting.
    """
    settings = dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{where}: needs a 'name'; known: {', '.join(names(kind))}")
    cls: type[Config] = find(kind, name)
    return parse_config(cls, settings, f"{where} ({name})")
