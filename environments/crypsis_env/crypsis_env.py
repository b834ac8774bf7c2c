"""Alignment faking as an environment of verifiers and prime-rl (docs/integrations.md in crypsis).

A task is a request in the monitored tier, the only one that RL trains on. Its rewards are the terms of crypsis' reward
by name, each with weight 1; its metrics are what monitors and the ground truth say. A reply that crypsis would drop
(cut off by the token budget, or without a verdict) is an error of its rollout, so that it gives no gradient.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any, Literal

import verifiers.v1 as vf
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crypsis.integrations.rewards import Rewards, SampledReply, make_rewards, prompt_of, row_of
from crypsis.types import Episode

__all__ = ["CrypsisTaskset"]


class CrypsisData(vf.TaskData):
    """What the reward needs to know of a request."""

    row: dict[str, Any] = {}


class CrypsisTaskConfig(vf.TaskConfig):
    """What is rewarded, as in the config of a run of crypsis; set under ``--env.taskset.task.*``."""

    scenario: dict[str, Any] = {"name": "miniature"}
    monitors: dict[str, dict[str, Any]] | None = None
    mitigations: list[dict[str, Any]] = []
    tokenizer: str | None = None
    """The policy's, by folder or hub id; needed by terms that count tokens, such as a length penalty."""
    settings: dict[str, Any] = {}
    """Other settings of a run, such as ``{"preference": {"model": "…"}}``."""


class CrypsisConfig(vf.TasksetConfig):
    """Which requests; set under ``--env.taskset.*``."""

    n: int = 128
    seed: int = 0
    split: Literal["train", "eval"] = "train"
    task: CrypsisTaskConfig = CrypsisTaskConfig()


class CrypsisTask(vf.Task[CrypsisData, vf.State, CrypsisTaskConfig]):
    """One request and the reward of its reply."""

    @vf.reward(weight=1.0)
    async def terms(self, trace: vf.Trace) -> dict[str, float]:
        """The terms of the reward by name; their sum is the reward."""
        episode = self._episode(trace)
        if episode.reward is None:
            raise ValueError(f"this reply gets no reward: {episode.dropped}")
        return dict(episode.reward_terms)

    @vf.metric
    async def judged(self, trace: vf.Trace) -> dict[str, float]:
        """Each monitor's p(AF); AF, compliance and form by the ground truth, where there is one."""
        episode = self._episode(trace)
        found = {f"score_{n}": v.score for n, v in episode.verdicts.items() if v.score is not None}
        known = {"conduct": ("complies", "comply"), "af": ("alignment_faking", "yes")}
        found |= {name: float(episode.labels[k] == yes) for k, (name, yes) in known.items() if k in episode.labels}
        return found | {"well_formed": float(episode.parse == "ok")}

    def _episode(self, trace: vf.Trace) -> Episode:
        tokenizer = _tokenizer(self.config.tokenizer) if self.config.tokenizer else None
        text = trace.last_reply
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] if tokenizer else []
        reply = SampledReply(prompt_of(self.data.row), text, "length" if trace.is_truncated else "end", tuple(ids))
        [episode] = rewards_of(self.config)([reply], tokenizer)
        return episode


class CrypsisTaskset(vf.Taskset[CrypsisTask, CrypsisConfig]):
    """Requests of the monitored tier."""

    def load(self) -> Iterable[CrypsisTask]:
        """A task per request; the same seed gives the same requests as a run of crypsis."""
        for prompt in rewards_of(self.config.task).prompts(self.config.split, self.config.n, self.config.seed):
            system = "\n\n".join(m.content for m in prompt.messages if m.role == "system")
            user = "\n\n".join(m.content for m in prompt.messages if m.role == "user")
            data = CrypsisData(id=prompt.prompt_id, prompt=user, system_prompt=system or None, row=row_of(prompt))
            yield CrypsisTask(data, self.config.task)


def rewards_of(config: CrypsisTaskConfig) -> Rewards:
    """The rewards of a config, loaded once."""
    parts = ("scenario", "monitors", "mitigations", "settings")
    return _rewards(json.dumps({name: getattr(config, name) for name in parts}, sort_keys=True))


@functools.lru_cache(maxsize=2)
def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(name)


@functools.lru_cache(maxsize=8)
def _rewards(text: str) -> Rewards:
    data = json.loads(text)
    return make_rewards(data["scenario"], data["monitors"], data["mitigations"], **data["settings"])
