"""Trains the classifier of lies: it reads the scratchpad of interrogation replies, and the oracle labels them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from crypsis.evaluation.metrics import LYING
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.interrogation import Interrogation
from crypsis.monitors.folds import TooFewError
from crypsis.monitors.oracle import with_truth
from crypsis.monitors.text import TextMonitor, train_text_monitor
from crypsis.registry import make
from crypsis.rl.rollouts import ask_extra_turns, rollout
from crypsis.run_config import RunConfig
from crypsis.scenarios.base import Variant
from crypsis.study.config import MonitorData
from crypsis.study.progress import Display
from crypsis.study.transcripts import Sampling
from crypsis.types import Episode, View

VIEW: View = "extra_turn"


def train_lying_monitor(organism: Path, data: MonitorData, out: Path, display: Display, sampling: Sampling) -> Path:
    """Trains the monitor of lies on the organism's replies to every variant of the question, unless it is there.

    Requests come from the training split and the monitored tier, where RL asks.

    Args:
        organism: Checkpoint folder.
        data: How many transcripts.
        out: Folder of the organism's monitors.
        display: For progress.
        sampling: In which scenario and how replies are sampled and judged.

    Returns:
        Its folder.

    Raises:
        TooFewError: The scenario's judge does not tell lies.
        UserError: The organism lies too rarely, or too often, to train on.
    """
    folder = out / LYING
    if not (folder / "monitor.json").exists():
        variants: Sequence[Variant] = get_args(Variant)
        with display.counted(f"lies {out.name}", len(variants), "variants") as show:
            known: list[Episode] = []
            for number, variant in enumerate(variants):
                episodes = _asked(organism, data, variant, number, sampling)
                if episodes and not any("lying" in e.labels for e in episodes):
                    raise TooFewError(f"nothing in the scenario '{sampling.scenario.name}' tells lies")
                known += [e for e in episodes if e.labels["lying"] != "unparsed"]
                show(number + 1)
        texts, labels = [e.extra_scratchpad for e in known], [e.labels["lying"] == "yes" for e in known]
        train_text_monitor(texts, labels, [e.prompt.pair_id for e in known], VIEW, folder, data.seed)
    return TextMonitor(path=folder).path


def _asked(organism: Path, data: MonitorData, variant: Variant, number: int, sampling: Sampling) -> list[Episode]:
    scenario, policy, tokens = sampling.scenario, sampling.load(organism), sampling.max_new_tokens
    count = max(20, data.organism // len(get_args(Variant)))
    seed = data.seed + 100 + number
    prompts = scenario.prompts("train", scenario.monitored_tier, count, seed)
    episodes = rollout(policy, prompts, group_size=1, max_new_tokens=tokens, seed=seed, step=0)
    question = Interrogation(variant=variant).bind(RunInfo(scenario, {}, {}, RunConfig(name="lying", policy=organism)))
    ask_extra_turns(policy, episodes, [question], tokens)
    asked = [e for e in episodes if e.extra_scratchpad]
    make("monitors", with_truth({"name": "oracle"}, scenario), "lying").judge(asked)
    return asked
