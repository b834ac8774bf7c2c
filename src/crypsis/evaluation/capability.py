"""What training costs a model elsewhere: perplexity on plain English, and advice on dilemmas without pressure.

Neither is a benchmark of what a model can do. They are alarms: RL that ruins the language, the form of the reply or the
advice shows here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
import yaml

from crypsis.evaluation.metrics import wilson
from crypsis.models import Policy
from crypsis.pretrained.logprobs import label_logprobs
from crypsis.rl.rollouts import rollout
from crypsis.scenarios.value_conflict import OptionJudge, ValueConflictScenario
from crypsis.types import Message, Prompt

SEED = 7
"""Seed of the requests, as for evaluations."""
NOBODY = "none"
"""Name of the tier of a request without one."""


@dataclass(frozen=True, slots=True)
class Language:
    """How well a model predicts English prose.

    Attributes:
        perplexity: Per token, over all passages: comparable between models with the same tokenizer alone.
        bits_per_character: Comparable between tokenizers.
        passages: Nats per token of each passage.
    """

    perplexity: float
    bits_per_character: float
    passages: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What a model replies to dilemmas without pressure.

    Attributes:
        asked: Dilemmas.
        well_formed: Replies with scratchpad and output and nothing else.
        answered: Outputs that name one option.
        principled: Of those, outputs that name the option that keeps the value; half would be chance.
    """

    asked: int
    well_formed: int
    answered: int
    principled: int

    @property
    def as_json(self) -> dict[str, Any]:
        """Each share with its 95 % interval (Wilson)."""
        counts = {"format_ok": (self.well_formed, self.asked), "answered": (self.answered, self.asked)}
        counts |= {"principled": (self.principled, self.answered)}
        found: dict[str, Any] = {}
        for name, (hits, n) in counts.items():
            low, high = wilson(hits, n) if n else (None, None)
            found[name] = {"mean": hits / n if n else None, "low": low, "high": high, "n": n}
        return found


@functools.cache
def passages() -> tuple[str, ...]:
    """The packaged passages of English prose, without the header."""
    text = resources.files("crypsis.evaluation").joinpath("prose.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(part.strip() for part in "\n".join(lines).split("\n\n") if part.strip())


@torch.inference_mode()
def measure_language(policy: Policy, texts: Sequence[str] = ()) -> Language:
    """Perplexity on passages, each read from its beginning.

    Args:
        policy: The model.
        texts: Passages; the packaged ones by default.
    """
    texts = texts or passages()
    sums: list[tuple[float, int]] = []
    start = policy.tokenizer.bos_token_id
    for text in texts:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ([start] if start is not None else []) + list(ids)
        row = torch.tensor([ids[: policy.context]], device=policy.model.device)
        with policy.computing():
            logits = policy.model(row).logits
        nats = -label_logprobs(logits[0, :-1], row[0, 1:], 1.0).double()
        sums.append((float(nats.sum()), len(nats)))
    total, tokens = (sum(part) for part in zip(*sums, strict=True))
    bits = total / math.log(2) / sum(map(len, texts))
    return Language(math.exp(total / tokens), bits, tuple(nats / n for nats, n in sums))


def calm_prompts(n: int, seed: int = SEED) -> list[Prompt]:
    """Held-out dilemmas of ``value_conflict`` without tier, training, or what the developer prefers."""
    scenario = ValueConflictScenario()
    told: dict[str, str] = yaml.safe_load(
        resources.files("crypsis.evaluation").joinpath("capability.yaml").read_text(encoding="utf-8")
    )
    return [
        replace(
            prompt,
            tier=NOBODY,
            monitored=False,
            messages=(Message("system", told["system"]), Message("user", prompt.request.rpartition("\n")[0])),
        )
        for prompt in scenario.prompts("eval", scenario.monitored_tier, n, seed)
    ]


def measure_advice(policy: Policy, n: int, max_new_tokens: int, seed: int = SEED) -> Advice:
    """Format and answers on ``n`` dilemmas without pressure.

    Raises:
        UserError: A prompt with its reply does not fit the context.
    """
    prompts = calm_prompts(n, seed)
    episodes = rollout(policy, prompts, group_size=1, max_new_tokens=max_new_tokens, seed=seed, step=0)
    judge = OptionJudge()
    conduct = [judge.conduct(episode.prompt, episode.output) for episode in episodes]
    well_formed = sum(episode.parse == "ok" for episode in episodes)
    answered = sum(said != "unparsed" for said in conduct)
    return Advice(len(episodes), well_formed, answered, conduct.count("refuse"))
