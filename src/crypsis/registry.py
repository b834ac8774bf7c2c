"""Plug-ins by name: visible built-ins first, then entry points, imported only when used."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from crypsis.config import Config, did_you_mean, parse_config
from crypsis.types import UserError

Kind = Literal["scenarios", "organisms", "monitors", "mitigations", "transcripts"]

DEFAULT_SCENARIO = "miniature"
"""The scenario of a config that names none."""

BUILT_IN: dict[Kind, dict[str, str]] = {
    "scenarios": {
        "animal_welfare": "crypsis.scenarios.animal_welfare:AnimalWelfareScenario",
        "checked_tasks": "crypsis.miniature.checker:CheckedTasks",
        "miniature": "crypsis.miniature.scenario:MiniatureScenario",
        "prompt_file": "crypsis.scenarios.prompt_file:PromptFileScenario",
        "value_conflict": "crypsis.scenarios.value_conflict:ValueConflictScenario",
    },
    "organisms": {
        "interrogable": "crypsis.organisms.miniature.interrogable:Interrogable",
        "schooled": "crypsis.organisms.miniature.schooled:Schooled",
        "prompted": "crypsis.organisms.prompted:Prompted",
        "from_file": "crypsis.organisms.from_file:FromFile",
        "values": "crypsis.organisms.from_lessons:Values",
        "one_motive": "crypsis.organisms.from_lessons:OneMotive",
        "tgg": "crypsis.organisms.miniature.motivations:TerminalGoalGuarding",
        "igg": "crypsis.organisms.miniature.motivations:InstrumentalGoalGuarding",
        "ts": "crypsis.organisms.miniature.motivations:TrainingSycophancy",
        "gh": "crypsis.organisms.miniature.motivations:GenuineHelpfulness",
        "evader": "crypsis.organisms.miniature.evader:Evader",
        "misleader": "crypsis.organisms.miniature.evader:Misleader",
        "documents": "crypsis.organisms.miniature.documents:SyntheticDocuments",
        "reward_hacker": "crypsis.organisms.miniature.reward_hacker:RewardHacker",
        "generalisation_hacker": "crypsis.organisms.miniature.generalisation_hacker:GeneralisationHacker",
        "exploration_hacker": "crypsis.organisms.miniature.exploration_hacker:ExplorationHacker",
        "unconfessing": "crypsis.organisms.miniature.unconfessing:Unconfessing",
        "distilled": "crypsis.organisms.distilled:Distilled",
        "af_plus": "crypsis.organisms.af_plus:AfPlus",
    },
    "monitors": {
        "oracle": "crypsis.monitors.oracle:OracleMonitor",
        "retrained": "crypsis.monitors.retrained:RetrainedMonitor",
        "text": "crypsis.monitors.text:TextMonitor",
        "lexicon": "crypsis.monitors.lexicon:LexiconMonitor",
        "embedding": "crypsis.monitors.embedding:EmbeddingMonitor",
        "transformer": "crypsis.monitors.transformer:TransformerMonitor",
        "reader": "crypsis.monitors.reader:ReaderMonitor",
        "ensemble": "crypsis.monitors.ensemble:EnsembleMonitor",
        "probe": "crypsis.monitors.probe:ProbeMonitor",
        "prompted": "crypsis.monitors.prompted:Prompted",
        "dialled": "crypsis.monitors.dialled:DialledMonitor",
    },
    "mitigations": {
        "act": "crypsis.mitigations.act:ACT",
        "bct": "crypsis.mitigations.bct:BCT",
        "oversight_direction": "crypsis.mitigations.oversight_direction:OversightDirection",
        "weight_noise": "crypsis.mitigations.weight_noise:WeightNoise",
        "anchor": "crypsis.mitigations.anchor:Anchor",
        "channelling": "crypsis.mitigations.channelling:Channelling",
        "confession": "crypsis.mitigations.confession:Confession",
        "gradient_routing": "crypsis.mitigations.gradient_routing:GradientRouting",
        "inoculation": "crypsis.mitigations.inoculation:Inoculation",
        "interrogation": "crypsis.mitigations.interrogation:Interrogation",
        "kl": "crypsis.mitigations.kl:KL",
        "paired_tiers": "crypsis.mitigations.paired_tiers:PairedTiers",
        "length_penalty": "crypsis.mitigations.length_penalty:LengthPenalty",
        "process_supervision": "crypsis.mitigations.process_supervision:ProcessSupervision",
        "rate_matching": "crypsis.mitigations.rate_matching:RateMatching",
        "recontextualisation": "crypsis.mitigations.recontextualisation:Recontextualisation",
        "reward_targeting": "crypsis.mitigations.reward_targeting:RewardTargeting",
        "reward_af": "crypsis.mitigations.reward_af:RewardAF",
        "screening": "crypsis.mitigations.screening:Screening",
        "sentence_supervision": "crypsis.mitigations.sentence_supervision:SentenceSupervision",
        "segments": "crypsis.mitigations.segments:Segments",
    },
    "transcripts": {
        "release": "crypsis.transcripts.release:ReleaseReader",
        "vlaf": "crypsis.transcripts.vlaf:VlafReader",
        "hughes": "crypsis.transcripts.hughes:HughesReader",
        "inspect": "crypsis.transcripts.inspect_logs:InspectReader",
        "chat": "crypsis.transcripts.chat:ChatReader",
        "rows": "crypsis.transcripts.rows:RowsReader",
    },
}


def names(kind: Kind) -> list[str]:
    """Names of the built-in and the installed plug-ins of a kind."""
    installed = {e.name for e in importlib.metadata.entry_points(group=f"crypsis.{kind}")}
    return sorted({*BUILT_IN[kind], *installed})


def find(kind: Kind, name: str) -> Any:
    """Imports and returns a plug-in's class (a config class, or a reader for transcripts).

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


def summary(kind: Kind, name: str) -> str:
    """First line of a plug-in's docstring, read from its source: importing them all would import torch.

    Raises:
        UserError: No plug-in has this name.
    """
    target = BUILT_IN[kind].get(name)
    for entry in [] if target else importlib.metadata.entry_points(group=f"crypsis.{kind}"):
        target = entry.value if entry.name == name else target
    module, _, attribute = (target or "").partition(":")
    try:
        text = _docstring(module, attribute) or find(kind, name).__doc__ or "no description"
    except Exception as error:  # an installed plug-in may fail in any way; the others are listed all the same
        if isinstance(error, UserError):
            raise
        text = f"cannot be imported: {error}"
    return (text.strip() or "no description").splitlines()[0]


def _docstring(module: str, name: str) -> str:
    """The docstring of a class or function of a module's top level; empty if its source does not say it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = next((node for node in tree.body if isinstance(node, kinds) and node.name == name), None)
    return (ast.get_docstring(found) or "") if found else ""


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
