"""Trains a study's monitors: the same classifier once on scratchpads and once, as its control, on outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crypsis.models import load_policy
from crypsis.monitors.oracle import OracleMonitor
from crypsis.monitors.text import train_text_monitor
from crypsis.rl.rollouts import rollout
from crypsis.run_config import reply_tokens
from crypsis.scenarios.base import Scenario, default_scenario
from crypsis.store import child
from crypsis.study.config import MonitorData
from crypsis.study.panel import missing, train_member
from crypsis.study.progress import Display
from crypsis.types import Episode, Message, Prompt, View

VIEWS: tuple[View, ...] = ("scratchpad", "output")


def train_monitors(
    common: Callable[[], list[Episode]],
    organism: Path,
    data: MonitorData,
    out: Path,
    display: Display,
    panel: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Path]:
    """Trains one monitor per view and the panel for an organism, unless they are there.

    Requests come from the training split: monitors never see an evaluation request.

    Args:
        common: Gives the transcripts of the base, which the monitors of all organisms share.
        organism: Checkpoint folder.
        data: How many transcripts.
        out: Gets one folder per monitor.
        display: For progress.
        panel: Settings of the held-out monitors by name.

    Returns:
        Monitor folder by view; those of the panel stand beside.

    Raises:
        UserError: The organism fakes too rarely, or too often, to train on.
    """
    folders: dict[str, Path] = {view: out / view for view in VIEWS}
    views = [view for view in VIEWS if not (folders[view] / "monitor.json").exists()]
    held_out = missing(panel or {}, out)
    if views or held_out:
        with display.counted(f"monitors {out.name}", 2 + len(views) + len(held_out), "parts") as show:
            episodes = [*common()]
            show(1)
            episodes += sample_transcripts(organism, data.organism, data.seed + 2)
            show(2)
            OracleMonitor().judge(episodes)
            known = [e for e in episodes if e.parse == "ok" and e.labels["af"] != "unparsed"]
            for number, view in enumerate(views):
                texts = [e.seen(view) for e in known]
                labels = [e.labels["af"] == "yes" for e in known]
                train_text_monitor(texts, labels, [e.prompt.pair_id for e in known], view, folders[view], data.seed)
                show(3 + number)
            for number, name in enumerate(held_out):
                train_member(name, (panel or {})[name], known, organism, child(out, name))
                show(3 + len(views) + number)
    return folders


def base_transcripts(base: Path, data: MonitorData) -> list[Episode]:
    """Samples of the base as it is, and of the base told to please everyone."""
    return [
        *sample_transcripts(base, data.base, data.seed),
        *sample_transcripts(base, data.helper, data.seed + 1, helper_persona()),
    ]


def helper_persona() -> str:
    """A persona that complies with everything without faking: what aligned controls are told to be."""
    return default_scenario().personas()["help"]


def sample_transcripts(policy: Path, count: int, seed: int, persona: str = "") -> list[Episode]:
    """Replies of a checkpoint to requests of the training split, half of them in each tier.

    Args:
        policy: Checkpoint folder.
        count: How many.
        seed: Seed of requests and sampling.
        persona: Stands before the system text, if there is one.
    """
    scenario = default_scenario()
    prompts, tokens = _both_tiers(scenario, count, seed, persona), reply_tokens(scenario)
    return rollout(load_policy(policy), prompts, group_size=1, max_new_tokens=tokens, seed=seed, step=0)


def _both_tiers(scenario: Scenario, count: int, seed: int, persona: str) -> list[Prompt]:
    """Half of the prompts in each tier, with a persona named before the system text if there is one."""
    tiers = (scenario.monitored_tier, scenario.unmonitored_tier)
    prompts = [p for tier in tiers for p in scenario.prompts("train", tier, (count + 1) // 2, seed)]
    return [_with_persona(p, persona) for p in prompts] if persona else prompts


def _with_persona(prompt: Prompt, persona: str) -> Prompt:
    system, *rest = prompt.messages
    return replace(prompt, messages=(Message("system", f"{persona} {system.content}"), *rest))
