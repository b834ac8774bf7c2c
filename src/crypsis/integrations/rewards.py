"""The reward of a step of RL as a function of replies, for training loops that are not ours.

It is that of ``crypsis.rl.rewards.compose``: preference, format penalty and the terms of mitigations. Departure: there
is no pilot, so the length correction is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from crypsis.config import parse_config
from crypsis.mitigations.base import Mitigation, term_names
from crypsis.mitigations.hooks import AddsTerm, Calibrates, FiltersEpisodes, RewritesTerms, delay_of
from crypsis.model_config import ModelConfig
from crypsis.monitors.base import Monitor, TrainsAgain, WatchesPolicy, judge
from crypsis.pretrained.chat_template import ChatTemplate, fitting_chat
from crypsis.rl.rewards import LengthCorrection, compose
from crypsis.rl.rollouts import segments
from crypsis.run_config import RLConfig, RunConfig
from crypsis.scenarios.base import Preference, Scenario
from crypsis.scenarios.parsing import episode_of_text, without_thought
from crypsis.study.context import load_rewards
from crypsis.types import Episode, Prompt, Split, Stop, UserError

NO_CORRECTION = LengthCorrection(0.0, 0.0, 0)
DOES: tuple[type[Mitigation], ...] = (AddsTerm, RewritesTerms, FiltersEpisodes, Calibrates)
"""Hooks that a function of replies can call."""
FIELDS = ("prompt_id", "pair_id", "split", "tier", "monitored", "request")
"""What a row of a dataset says of its prompt besides its messages."""


@dataclass(frozen=True, slots=True)
class SampledReply:
    """A sampled reply.

    Attributes:
        prompt: What it replies to.
        text: As decoded, tags included, without the token that ended it.
        stop: ``length`` if the token budget cut it off: it gets no reward.
        ids: Its token ids, where terms count tokens; may be empty.
    """

    prompt: Prompt
    text: str
    stop: Stop = "end"
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewards:
    """Judges and rewards replies.

    Attributes:
        scenario: Where prompts come from.
        monitors: Keyed by name; all of them judge.
        mitigations: Whose terms are added.
        preference: The preference model.
        rl: Format penalty, and what to do without a verdict.
        model: What becomes of the thought of a reasoning model, and the arguments of its chat template.
    """

    scenario: Scenario
    monitors: Mapping[str, Monitor]
    mitigations: Sequence[Mitigation]
    preference: Preference
    rl: RLConfig
    model: ModelConfig = field(default_factory=ModelConfig)

    @property
    def terms(self) -> list[str]:
        """Names of the reward's terms, in order."""
        return ["preference", "format", *term_names(self.mitigations)]

    def prompts(self, split: Split = "train", n: int = 128, seed: int = 0) -> list[Prompt]:
        """Prompts of the monitored tier, the only one that RL trains on."""
        return self.scenario.prompts(split, self.scenario.monitored_tier, n, seed)

    def __call__(
        self, replies: Sequence[SampledReply], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> list[Episode]:
        """The replies as episodes with verdicts, terms and reward; ``reward`` is None where an episode is dropped.

        Args:
            replies: In any order.
            tokenizer: Needed only by terms that count tokens.

        Raises:
            UserError: A term is not finite, a hook raised, or a term counts tokens and nothing tells them.
        """
        counting = next((m.name for m in self.mitigations if isinstance(m, AddsTerm) and m.of_scratchpad), None)
        if counting and (tokenizer is None or not all(reply.ids for reply in replies)):
            raise UserError(f"mitigations: {counting}: counts tokens; give a tokenizer, and the ids of each reply")
        chat = chat_of(tokenizer, self.model)
        episodes = [_episode(reply, tokenizer, chat) for reply in replies]
        judge(episodes, self.monitors)
        compose(episodes, self.preference, NO_CORRECTION, self.mitigations, self.rl)
        for episode in episodes:
            episode.reward_terms.pop("length", None)  # 0
        return episodes


def make_rewards(
    scenario: Mapping[str, Any] | str = "miniature",
    monitors: Mapping[str, Mapping[str, Any]] | None = None,
    mitigations: Sequence[Mapping[str, Any]] = (),
    **settings: Any,
) -> Rewards:
    """Loads what a run's config names.

    Args:
        scenario: Name, or name and settings.
        monitors: Name and settings of each, by the name under which mitigations listen to it; only the oracle if not
            given.
        mitigations: Name and settings of each.
        settings: Other settings of a run, such as ``preference={"model": …}``, or ``rl={"format_penalty": -1}``.

    Raises:
        UserError: A part is unknown or wrongly set, or does what no function of replies can do.
    """
    data: dict[str, Any] = {"name": "rewards", "policy": Path()} | settings
    data["scenario"] = {"name": scenario} if isinstance(scenario, str) else dict(scenario)
    data |= {"mitigations": [dict(m) for m in mitigations]} | ({} if monitors is None else {"monitors": dict(monitors)})
    loaded = load_rewards(parse_config(RunConfig, data, "rewards"))
    for name, monitor in loaded.monitors.items():
        if isinstance(monitor, WatchesPolicy | TrainsAgain):
            raise UserError(f"monitors.{name}: needs the policy or the run; train with `crypsis train`")
        monitor.check_access()
    for mitigation in loaded.mitigations:
        if what := _beyond(mitigation):
            raise UserError(f"mitigations: {mitigation.name}: {what}; train with `crypsis train`")
    fitted = [m.calibrate([]) if isinstance(m, Calibrates) else m for m in loaded.mitigations]
    return Rewards(loaded.scenario, loaded.monitors, fitted, loaded.preference, loaded.config.rl, loaded.config.model)


def row_of(prompt: Prompt) -> dict[str, Any]:
    """What a dataset's row must have so that :func:`prompt_of` gives the prompt again."""
    return {name: getattr(prompt, name) for name in FIELDS}


def prompt_of(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a dataset's row, without its messages, which no reward reads."""
    return Prompt(**{name: row[name] for name in FIELDS}, messages=())


def _beyond(mitigation: Mitigation) -> str:
    """What a mitigation does that a function of replies cannot do; empty if nothing."""
    if delay_of(mitigation):
        return "a delay needs the loop"
    hooks = [cls for cls in type(mitigation).__mro__ if cls.__module__ == "crypsis.mitigations.hooks"]
    other = [hook.__name__ for hook in hooks if not issubclass(hook, DOES)]
    return f"the hook {other[0]} needs the loop" if other else ""


def chat_of(tokenizer: PreTrainedTokenizerBase | None, model: ModelConfig) -> ChatTemplate:
    """How the policy's template opens a reply; without a template it opens nothing."""
    own = ChatTemplate(arguments=model.template, date=model.date, thinking=model.thinking)
    if tokenizer is None or tokenizer.chat_template is None:
        return own
    return fitting_chat(tokenizer, str(tokenizer.name_or_path), own)


def _episode(reply: SampledReply, tokenizer: PreTrainedTokenizerBase | None, chat: ChatTemplate) -> Episode:
    bare = without_thought(reply.text, chat.opens_thought, chat.thinking == "scratchpad")
    episode = replace(episode_of_text(reply.prompt, bare, reply.stop), raw=reply.text)
    if tokenizer is not None and reply.ids:
        episode.completion_ids = list(reply.ids)
        episode.segments = segments(tokenizer, episode.completion_ids, chat)
    return episode
