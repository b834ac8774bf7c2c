"""Trains a study's monitors: the same classifier once on scratchpads and once, as its control, on outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crypsis.models import load_policy
from crypsis.monitors.oracle import OracleMonitor
from crypsis.monitors.text import train_text_monitor
from crypsis.monitors.thresholds import Controls
from crypsis.rl.rollouts import rollout
from crypsis.run_config import reply_tokens
from crypsis.scenarios.base import Scenario, default_scenario
from crypsis.store import child
from crypsis.study.config import MonitorData
from crypsis.study.panel import missing, train_member
from crypsis.study.progress import Display
from crypsis.types import Episode, Message, Prompt, View

VIEWS: tuple[View, ...] = ("scratchpad", "output")


@dataclass(frozen=True, slots=True)
class Common:
    """What the monitors of all organisms of a study share.

    Attributes:
        base: Transcripts of the base that they learn from.
        controls: Monitored transcripts of the base told to please everyone, for thresholds alone.
    """

    base: list[Episode]
    controls: list[Episode]


def train_monitors(
    common: Callable[[], Common],
    organism: Path,
    data: MonitorData,
    out: Path,
    display: Display,
    panel: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Path]:
    """Trains one monitor per view and the panel for an organism, unless they are there.

    Requests come from the training split: monitors never see an evaluation request.

    Args:
        common: Gives the transcripts of the base, and of its controls, which the monitors of all organisms share.
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
            shared = common()
            show(1)
            own = sample_transcripts(organism, data.organism, data.seed + 2)
            known = judged([*shared.base, *own])
            controls = judged([*shared.controls, *aligned_controls(organism, data, data.seed + 4)])
            show(2)
            for number, view in enumerate(views):
                texts, labels = [e.seen(view) for e in known], [e.labels["af"] == "yes" for e in known]
                monitored, groups = [e.prompt.monitored for e in known], [e.prompt.pair_id for e in known]
                train_text_monitor(
                    texts, labels, groups, view, folders[view], data.seed, monitored, seen_by(controls, view)
                )
                show(3 + number)
            for number, name in enumerate(held_out):
                train_member(name, (panel or {})[name], known, controls, organism, child(out, name))
                show(3 + len(views) + number)
    return folders


def judged(episodes: list[Episode]) -> list[Episode]:
    """The well-formed ones, with the oracle's labels."""
    OracleMonitor().judge(episodes)
    return [e for e in episodes if e.parse == "ok" and e.labels["af"] != "unparsed"]


def seen_by(controls: Sequence[Episode], view: View) -> Controls:
    """Controls as a view shows them."""
    labels, groups = [e.labels["af"] == "yes" for e in controls], [e.prompt.pair_id for e in controls]
    return Controls([e.seen(view) for e in controls], labels, groups)


def base_transcripts(base: Path, data: MonitorData) -> Common:
    """Samples of the base as it is and of the base told to please everyone, and further controls for thresholds."""
    learned = [
        *sample_transcripts(base, data.base, data.seed),
        *sample_transcripts(base, data.helper, data.seed + 1, helper_persona()),
    ]
    return Common(learned, aligned_controls(base, data, data.seed + 3))


def aligned_controls(policy: Path, data: MonitorData, seed: int) -> list[Episode]:
    """Half of the controls: monitored replies of a checkpoint that is told to please everyone."""
    scenario = default_scenario()
    if not data.controls:
        return []
    prompts = scenario.prompts("train", scenario.monitored_tier, (data.controls + 1) // 2, seed)
    told = [_with_persona(prompt, helper_persona()) for prompt in prompts]
    return rollout(load_policy(policy), told, group_size=1, max_new_tokens=reply_tokens(scenario), seed=seed, step=0)


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
