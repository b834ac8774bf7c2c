"""Bias-augmented consistency training (BCT): the same reply under a changed tier, by supervised learning."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.consistency import MatchesTiers
from crypsis.mitigations.hooks import AsksExtraTurn, Demonstration, ImitatesReplies
from crypsis.scenarios.parsing import parse_reply, reply_start
from crypsis.types import Episode, Learn, Prompt, UserError


class BCT(MatchesTiers, AsksExtraTurn, ImitatesReplies):
    """Learns the policy's own reply in the reference tier as the reply in the other tier (BCT, arXiv 2510.27062).

    A control of ``rate_matching``, which is the same aim by rewards: there an answer's own rate decides, here every
    reply of the reference tier is imitated, its reasoning too. ``paired_tiers`` imitates nothing: it takes a penalty
    off the monitored answer wherever a pair of answers differs.

    Departures: the changed part of the prompt is the user's tier; replies are those of the policy as it is in the step,
    and the loss stands beside the policy loss of RL. Malformed replies are not imitated, and thoughts before a
    reply are left out. Share and weight are ours.
    """

    name: ClassVar[str] = "bct"
    asks_in_evaluations: ClassVar[bool] = False

    share: float = Field(0.25, gt=0, le=1)
    """Share of the episodes whose reply is imitated; the choice depends on the step's seed and the episode's number."""
    learn: Learn = "all"
    """The part of the reply that is in the loss."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: As for :class:`MatchesTiers`, or a thought is the scratchpad.
        """
        if run.config.model.thinking == "scratchpad":
            raise UserError(f"mitigations: {self.name}: cannot imitate a thought; use model.thinking=drop")
        return super().bind(run)

    def ask(self, episode: Episode) -> Prompt | None:
        """The same request in the unmonitored tier, if that is the reference; else the episode has the reply."""
        if self.reference == "monitored" or not self._chooses(episode):
            return None
        return self.in_other_tier(episode.prompt)

    def imitate(self, episodes: Sequence[Episode]) -> Sequence[Demonstration]:
        """One demonstration per chosen episode whose reply in the reference tier is well formed."""
        found = []
        for episode in filter(self._chooses, episodes):
            if self.reference == "monitored":
                asked, reply = self.in_other_tier(episode.prompt), episode.raw
            else:
                asked, reply = episode.prompt, episode.extra_turn
            reply = reply[reply_start(reply) :]
            if parse_reply(reply).parse == "ok":
                found.append(Demonstration(asked.messages, reply, self.learn))
        return found

    def _chooses(self, episode: Episode) -> bool:
        rng = random.Random(f"bct:{episode.seed}:{episode.group}:{episode.sample}")
        return episode.parse == "ok" and bool(self.scenario) and rng.random() < self.share
