"""The runs of a study: organisms × arms × seeds, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crypsis.config import parse_config
from crypsis.evaluation.metrics import LYING
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.compliance import tells_faking
from crypsis.mitigations.interrogation import Interrogation
from crypsis.mitigations.rules import bind_all
from crypsis.monitors.base import Monitor
from crypsis.organisms.base import Organism
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.study.config import ArmConfig, StudyConfig
from crypsis.study.context import monitor_specs, no_reward, with_settings
from crypsis.study.monitors import VIEWS
from crypsis.study.panel import check_panel, panel_specs, resolved_monitor
from crypsis.types import UserError, View, distinct_names

Folders = Mapping[str, Path]
"""Folder by name."""


def grid(config: StudyConfig, policies: Folders, monitors: Mapping[str, Folders]) -> list[RunConfig]:
    """All runs of a study: seeds outermost, then organisms, so that every cell has a result as early as possible.

    Those of the organisms in ``config.first`` come before all others.

    Args:
        config: The study.
        policies: Folder by checkpoint.
        monitors: Folders of the trained monitors, keyed by checkpoint and name.

    Raises:
        UserError: An arm's settings are wrong, or two runs would share a folder.
    """
    runs = [
        _run(config, organism, arm, seed, policies[config.checkpoint(organism, seed)], monitors)
        for seed in config.seeds
        for organism in config.organisms
        for arm in config.arms_of(organism)
    ]
    runs.sort(key=lambda run: run.organism not in config.first)
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{config.name}: two runs are called '{twice}'; rename an organism or an arm")
    distinct_names(names)
    return runs


def check(config: StudyConfig) -> None:
    """Finds the user's mistakes before anything is built.

    Raises:
        UserError: A plug-in is none or wrongly set, or an arm's mitigations do not go together.
    """
    for label, spec in config.organisms.items():
        try:
            made: Organism = make("organisms", spec, "settings")
            made.again(0 if config.repeats == "runs" else 1)
        except UserError as error:
            raise UserError(f"organisms.{label}: {error}") from None
    for checkpoint in config.checkpoints():
        if config.base is None and (checkpoint.base or config.base_of.get(checkpoint.organism)):
            make("scenarios", config.base_scenario(checkpoint), f"organisms.{checkpoint.organism}: base")
    check_panel(config.panel, shared=config.monitors_from is not None)
    _check_labels(config)
    for run in _unbuilt(config):
        judges = _monitors(run)
        mitigations = [make("mitigations", m, f"arms.{run.arm}.mitigations") for m in run.mitigations]
        scenario: Scenario = make("scenarios", run.scenario, f"arms.{run.arm}.scenario")
        if run.preference is None and scenario.preference() is None:
            raise no_reward(scenario)
        monitor_specs(run, scenario)
        views = {monitor: _view(monitor, run.monitors) for monitor in run.monitors}
        info = RunInfo(scenario, views, dict.fromkeys(views, 0.5), with_settings(run, mitigations))
        try:
            _ = [monitor.bound(judges) for monitor in judges.values()]
            bind_all(mitigations, info)
        except UserError as error:
            raise UserError(f"arms.{run.arm}: {error}") from None


def _check_labels(config: StudyConfig) -> None:
    """Refuses to train monitors where nothing labels transcripts."""
    scenario: Scenario = make("scenarios", config.run.scenario or {"name": DEFAULT_SCENARIO}, "run.scenario")
    if config.monitors is None and not tells_faking(scenario):
        raise UserError(
            f"monitors: name those of the scenario '{scenario.name}': it has no judge that tells faking, so a study "
            "cannot train them"
        )


def check_access(config: StudyConfig) -> None:
    """Refuses to build anything for a study with a judge that cannot be called.

    Raises:
        UserError: There is no key in the environment, or no such provider.
    """
    for run in _unbuilt(config):
        made = _monitors(run)
        parts: list[Any] = [monitor.bound(made) for monitor in made.values()]
        parts += [make("mitigations", m, f"arms.{run.arm}.mitigations") for m in run.mitigations]
        for part in parts:
            part.check_access()


def unbuilt_grid(config: StudyConfig) -> list[RunConfig]:
    """All runs as they are before anything of the study has a folder."""
    names = [checkpoint.name for checkpoint in config.checkpoints()]
    monitors = {name: {view: Path(view) for view in (*VIEWS, LYING)} for name in names}
    return grid(config, dict.fromkeys(names, Path("organism")), monitors)


def _unbuilt(config: StudyConfig) -> list[RunConfig]:
    """The runs of the first seed, as they are before organisms and monitors have folders."""
    return [run for run in unbuilt_grid(config) if run.seed == config.seeds[0]]


def _monitors(run: RunConfig) -> dict[str, Monitor]:
    return {n: make("monitors", spec, f"arms.{run.arm}.monitors.{n}") for n, spec in run.monitors.items()}


def cards(runs: Sequence[RunConfig], config: StudyConfig | None = None) -> dict[str, dict[str, Any]]:
    """The cards of each checkpoint's monitors but the oracle, as they are before RL.

    Args:
        runs: Runs of a study, or one alone.
        config: The study. Where every seed has its own checkpoint, a card also says whose and which seed's it is.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = config is not None and config.repeats != "runs"
        whose = {"organism": run.organism, "runs_seed": run.seed} if own else {}
        known = found.setdefault(config.checkpoint(run.organism, run.seed) if config else run.organism, {})
        if not set(run.monitors) <= {*known, "oracle"}:
            made: dict[str, Monitor] = {n: make("monitors", s, n) for n, s in run.monitors.items()}
            known |= {n: m.bound(made).card | whose for n, m in made.items() if n not in {*known, "oracle"}}
    return found


def asked(config: StudyConfig, organism: str) -> bool:
    """Whether an arm of an organism interrogates, so that a monitor of lies is to be trained."""
    return config.monitors is None and any(_asks(config.arms[arm]) for arm in config.arms_of(organism))


def _trained(config: StudyConfig, folders: Folders) -> dict[str, Any]:
    """The monitors that the study trains on one organism, as a run's config names them."""
    specs = {view: {"name": "text", "path": str(folders[view]), "view": view} for view in VIEWS}
    return specs | panel_specs(config.panel, folders[VIEWS[0]].parent)


def _run(
    config: StudyConfig, organism: str, arm: str, seed: int, policy: Path, monitors: Mapping[str, Folders]
) -> RunConfig:
    settings = config.arms[arm]
    by_label = {label: monitors[config.checkpoint(label, seed)] for label in config.organisms}
    trained = {label: config.monitors or _trained(config, folders) for label, folders in by_label.items()}
    specs = trained[organism] if config.monitors else {"oracle": {"name": "oracle"}} | trained[organism]
    if _asks(settings) and LYING in by_label[organism]:
        specs = specs | {LYING: {"name": "text", "path": str(by_label[organism][LYING]), "view": "extra_turn"}}
    try:
        own = {n: resolved_monitor(n, spec, organism, trained) for n, spec in settings.monitors.items()}
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from None
    shared = config.run.model_dump(exclude_none=True)
    return parse_config(
        RunConfig,
        shared
        | {"name": f"{organism}-{arm}-seed{seed}", "policy": policy, "organism": organism}
        | {"mitigations": settings.mitigations, "monitors": specs | own}
        | {"scenario": (config.run.scenario or {"name": DEFAULT_SCENARIO}) | settings.scenario}
        | ({"model": shared.get("model", {}) | settings.model} if settings.model else {})
        | {"rl": shared["rl"] | settings.rl, "seed": seed, "arm": arm, "label": settings.label}
        | ({"evaluation": shared["evaluation"] | {"every": settings.every}} if settings.every else {})
        | {"report_to": config.run.report_to},
        f"arms.{arm}",
    )


def _asks(arm: ArmConfig) -> bool:
    return any(m.get("name") == Interrogation.name for m in arm.mitigations)


def _view(name: str, specs: Mapping[str, Mapping[str, Any]]) -> View:
    """What a monitor will read, before those of the study are trained."""
    spec, start = specs[name], specs[name].get("start")
    if isinstance(start, Mapping):
        spec = start
    elif isinstance(start, str) and start in specs:
        spec = specs[start]
    view: View = spec.get("view", "both")
    return view
