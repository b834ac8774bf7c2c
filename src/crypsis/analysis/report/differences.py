"""What the arms of a study were set differently, read from the configs of their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crypsis.analysis.study import Run
from crypsis.analysis.summary import Summary
from crypsis.store import PROVENANCE, read_json
from crypsis.types import visible

IDENTITY = frozenset({"name", "seed", "arm", "label", "organism"})
"""Keys that say which run it is, not how it was set."""
ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Differences:
    """The settings in which the arms of some organisms differ.

    Attributes:
        organisms: Those of which this is true.
        arms: Labels.
        rows: The value of each setting in each arm; ``ABSENT`` where an arm does not have it.
    """

    organisms: tuple[str, ...]
    arms: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def arm_differences(summary: Summary) -> list[Differences]:
    """The settings in which arms differ; organisms whose arms differ alike stand together."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for organism in summary.organisms:
        arms = summary.of(organism)
        flat = [_settings(arm.runs[0]) for arm in arms]
        keys = list(dict.fromkeys(key for settings in flat for key in settings))
        rows = tuple(
            (key, values)
            for key in keys
            if len(set(values := tuple(settings.get(key, ABSENT) for settings in flat))) > 1
        )
        found.setdefault((tuple(arm.label for arm in arms), rows), []).append(organism)
    return [Differences(tuple(organisms), arms, rows) for (arms, rows), organisms in found.items()]


def code_differences(summary: Summary) -> list[str]:
    """One line if the runs of a study were made by different states of the package's source, as in development."""
    states: dict[str, list[str]] = {}
    for run in summary.study.runs:
        record = run.folder / PROVENANCE
        code = str(read_json(record).get("code") or "") if record.exists() else ""
        if code:
            states.setdefault(visible(code), []).append(run.folder.name)
    if len(states) < 2:
        return []
    told = ", ".join(f"{code} ({len(names)} runs, such as {names[0]})" for code, names in states.items())
    return [
        f"the runs were made by {len(states)} states of the code: {told}; run those of one state again to compare them"
    ]


def seed_differences(summary: Summary) -> list[str]:
    """One line for each arm whose seeds were not set alike, and so are not seeds of one thing."""
    lines = []
    own = summary.study.repeats != "runs"  # then checkpoint and monitors are each seed's own
    for arm in summary.arms:
        first, *others = [(run, _settings(run, own)) for run in arm.runs]
        for run, settings in others:
            keys = [k for k in dict.fromkeys([*first[1], *settings]) if first[1].get(k) != settings.get(k)]
            if keys:
                where = f"{first[0].folder.name} and {run.folder.name}"
                lines.append(f"{where} are seeds of one arm, but differ in {', '.join(keys)}")
    return lines


def _settings(run: Run, own: bool = False) -> dict[str, str]:
    """All settings by dotted key; without the paths of checkpoint and monitors if every seed has its own."""
    found = dict(_flat({k: v for k, v in run.config.items() if k not in IDENTITY}, ""))
    return {k: v for k, v in found.items() if not (own and (k == "policy" or k.endswith(".path")))}


def _flat(node: Any, path: str) -> list[tuple[str, str]]:
    """(dotted key, value as JSON) of every leaf; lists of mappings are counted, what is empty has none."""
    if isinstance(node, Mapping):
        return [leaf for key, value in node.items() for leaf in _flat(value, f"{path}.{key}" if path else str(key))]
    if isinstance(node, list) and all(isinstance(entry, Mapping) for entry in node):
        return [leaf for i, entry in enumerate(node) for leaf in _flat(entry, f"{path}.{i}")]
    said = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, default=str)
    return [(visible(path), visible(said))]
