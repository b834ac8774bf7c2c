"""Sentence-level supervision: which sentence brings the faking about, by sampling again from where it begins."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

from pydantic import Field

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.compliance import HasJudge, tells_faking
from crypsis.mitigations.hooks import AsksExtraTurn, Credit, CreditsTokens
from crypsis.scenarios.parsing import THOUGHT_TAGS, reply_start
from crypsis.types import Episode, Prompt, UserError

SENTENCE = re.compile(r"\S.*?(?:[.?!](?=\s|$)|$)", re.DOTALL)
Span = tuple[int, int]


class SentenceSupervision(HasJudge, AsksExtraTurn, CreditsTokens):
    """Penalises the tokens of a sentence by how much likelier it makes faking than what would be sampled in its place.

    In each episode one sentence of the scratchpad is drawn and the reply sampled once more from where it begins. The
    reply fakes given the sentence, the second one without it, so the difference of the two is an unbiased estimate of
    the sentence's effect, with one sample instead of many (a resampling estimate as in Bogdan et al. 2025, "Thought
    Anchors", arXiv 2506.19143). Its cost is a second reply per episode, on average half of it sampled.

    Its ``judge`` is a monitor that scores faking. Not in the paper of 2025. Departure: no sentence is sampled from more
    than once, so a single estimate is −1, 0 or 1; the gradient of a step averages them.
    """

    name: ClassVar[str] = "sentence_supervision"
    asks_in_evaluations: ClassVar[bool] = False

    coefficient: float = Field(1.0, gt=0, le=1e6)
    """Factor of the effect; ours."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the episodes that are sampled again."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: Nothing tells faking, or the judge cannot.
        """
        self.check_judge()
        scenario = run.scenario
        if self.judge is None and not tells_faking(scenario):
            raise UserError(
                f"mitigations: {self.name}: judge: the scenario '{scenario.name}' has no ground truth of faking; name "
                "a monitor"
            )
        if run.config.model.thinking == "scratchpad":
            raise UserError(f"mitigations: {self.name}: cannot go on with a thought; use model.thinking=drop")
        return self.in_scenario(run)

    def ask(self, episode: Episode) -> Prompt | None:
        """The same prompt, with the reply up to the drawn sentence as its beginning."""
        span = self._sentence(episode)
        return (
            replace(episode.prompt, prefill=episode.raw[_reply_start(episode.raw) : span[0]].rstrip()) if span else None
        )

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        """A credit on the drawn sentence of each episode whose two endings can be judged."""
        again = [replace(e, scratchpad=e.extra_scratchpad, output=e.extra_output, extra_turn="") for e in episodes]
        found = zip(episodes, self._faking(episodes), self._faking(again), strict=True)
        return [self._credits(e, with_it, without) if e.extra_turn else [] for e, with_it, without in found]

    def _credits(self, episode: Episode, with_it: float | None, without: float | None) -> list[Credit]:
        span = self._sentence(episode)
        if span is None or with_it is None or without is None:
            return []
        return [Credit.between(episode, *span, -self.coefficient * (with_it - without))]

    def _sentence(self, episode: Episode) -> Span | None:
        """The drawn sentence of a well-formed episode, by where it stands in ``raw``."""
        rng = random.Random(f"sentence:{episode.seed}:{episode.group}:{episode.sample}")
        if episode.parse != "ok" or rng.random() >= self.share:
            return None
        start = episode.raw.find(episode.scratchpad)
        spans = [(start + m.start(), start + m.end()) for m in SENTENCE.finditer(episode.scratchpad)]
        return rng.choice(spans) if spans else None

    def _faking(self, episodes: Sequence[Episode]) -> list[float | None]:
        return self.true_faking(episodes) if self.judge is None else self.judged(episodes)


def _reply_start(raw: str) -> int:
    """Where the beginning of a reply begins that the policy can go on with.

    A thought that it opened itself is part of it. One that its template opened is not: with a beginning given, the
    template closes it first.
    """
    return 0 if raw.lstrip().startswith(THOUGHT_TAGS[0][0]) else reply_start(raw)
