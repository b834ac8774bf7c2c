"""Group-relative advantages (GRPO) with dropped episodes, by stream of the reward.

The formula is that of TRL 1.16's ``GRPOTrainer`` (Shao et al. 2024, DeepSeekMath, section 4.1, with an unbiased
standard deviation): (r - mean) / (std + eps) over the episodes of a group that were not dropped. A stream is the terms
that reach the same tokens; it has a baseline of its own, and a token's advantage is the sum of its streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crypsis.mitigations.base import Mitigation, call, call_each
from crypsis.mitigations.hooks import SEGMENTS, Credit, CreditsTokens, TargetsTerms
from crypsis.rl.groups import Group
from crypsis.types import Episode, Learn, UserError

Scale = Literal["group", "none"]
EPS = 1e-4  # TRL 1.16, GRPOTrainer


@dataclass(frozen=True, slots=True)
class Advantages:
    """What ``group_advantages`` or ``step_advantages`` found.

    Attributes:
        advantages: One number per episode, in the order of the rewards, summed over streams; 0 for dropped episodes.
        dropped: Episodes without a reward.
        zero_variance_groups: Groups of at least two survivors that all have the same reward: no gradient.
        single_survivor_groups: Groups of which exactly one episode was not dropped: no baseline, so no gradient.
        tokens: Per episode, one advantage per completion token; None where all tokens have that of the episode.
        reaches: The tokens that each term reaches, keyed by its name, where that is not all of them.
        streams: The part of each episode's advantage with each reach; empty with a single stream.
        credit: The count of what reached certain tokens only; None with a single stream that reaches all.
    """

    advantages: list[float]
    dropped: int
    zero_variance_groups: int
    single_survivor_groups: int
    tokens: list[list[float] | None] = field(default_factory=list)
    reaches: Mapping[str, Learn] = field(default_factory=dict)
    streams: Mapping[Learn, list[float]] = field(default_factory=dict)
    credit: CreditCount | None = None


@dataclass(slots=True)
class CreditCount:
    """How much of what reaches certain tokens only teaches anything.

    Attributes:
        given: Credits, and terms sent to a segment (per episode and segment), with an advantage that is not 0.
        lost: Those of them that reach no token which learns.
        lost_tokens: Tokens that they reach and that do not learn.
    """

    given: int = 0
    lost: int = 0
    lost_tokens: int = 0

    def add(self, learns: Sequence[bool], tokens: Iterable[int]) -> None:
        """Counts one that reaches these tokens of an episode."""
        reached = [learns[token] for token in tokens]
        self.given += 1
        self.lost += not any(reached)
        self.lost_tokens += reached.count(False)


def centred(rewards: Sequence[float | None], scale: Scale, eps: float = EPS) -> list[float]:
    """The advantages of one group; 0 where there is no reward, or no baseline."""
    known = [r for r in rewards if r is not None]
    # Equality is asked of the rewards: their mean is rounded, so equal rewards may differ from it.
    if len(known) < 2 or min(known) == max(known):
        return [0.0] * len(rewards)
    mean = math.fsum(known) / len(known)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in known) / (len(known) - 1))
    divisor = std + eps if scale == "group" else 1.0
    return [0.0 if r is None else (r - mean) / divisor for r in rewards]


def group_advantages(
    groups: Sequence[Sequence[float | None]],
    scale: Scale = "group",
    eps: float = EPS,
) -> Advantages:
    """Advantages of whole replies.

    Args:
        groups: The rewards of each group, one per episode; None drops it: it does not enter the statistics and its
            advantage is 0.
        scale: ``group`` divides by the group's standard deviation, ``none`` only subtracts the mean.
        eps: Added to the standard deviation, in units of reward.

    Raises:
        ValueError: A reward is NaN or infinite.
    """
    advantages: list[float] = []
    dropped = zero_variance = single = 0
    for rewards in groups:
        known = [r for r in rewards if r is not None]
        for index, reward in enumerate(rewards, len(advantages)):
            if reward is not None and not math.isfinite(reward):
                raise ValueError(f"the reward of episode {index} is {reward}; drop it (None) or correct its term")
        dropped += len(rewards) - len(known)
        single += len(known) == 1
        zero_variance += len(known) > 1 and min(known) == max(known)
        advantages += centred(rewards, scale, eps)
    return Advantages(advantages, dropped, zero_variance, single)


def step_advantages(
    groups: Sequence[Group], mitigations: Sequence[Mitigation], scale: Scale, learn: Learn = "all"
) -> Advantages:
    """Advantages of a step's episodes, which get theirs written in; rewards are composed.

    Args:
        groups: The step's episodes.
        mitigations: Those of the run.
        scale: What centred rewards are divided by, as in ``group_advantages``. Credits are not divided: their unit is
            that of rewards, and a mitigation's coefficient weighs them.
        learn: The segments that learn; nothing but the count of credit depends on it.

    Raises:
        UserError: A hook raised, or gave credit that cannot be used.
    """
    found = group_advantages([[e.reward for e in group.episodes] for group in groups], scale)
    episodes = [e for group in groups for e in group.episodes]
    reaches = _reaches(episodes, mitigations)
    credits = [_credit(episodes, m) for m in mitigations if isinstance(m, CreditsTokens)]
    if not reaches and not credits:
        for episode, advantage in zip(episodes, found.advantages, strict=True):
            episode.advantage = advantage
        return found
    streams: dict[Learn, list[float]] = {}
    for reach in SEGMENTS:
        rewards = [[_stream(e, reaches, reach) for e in group.episodes] for group in groups]
        streams[reach] = [a for own in rewards for a in centred(own, scale)]
    sums = [sum(parts) for parts in zip(*streams.values(), strict=True)]
    tokens: list[list[float] | None] = []
    count = CreditCount()
    learns = [[s in SEGMENTS[learn] for s in e.segments] for e in episodes]
    for index, episode in enumerate(episodes):
        episode.advantage = sums[index]
        tokens.append([sum(streams[r][index] for r in SEGMENTS if s in SEGMENTS[r]) for s in episode.segments])
        for reach in (r for r in SEGMENTS if r != "all" and streams[r][index]):
            count.add(learns[index], (i for i, s in enumerate(episode.segments) if s in SEGMENTS[reach]))
    for given in credits:
        _add_credit(groups, given, tokens, learns, count)
    return Advantages(
        sums, found.dropped, found.zero_variance_groups, found.single_survivor_groups, tokens, reaches, streams, count
    )


def _reaches(episodes: Sequence[Episode], mitigations: Sequence[Mitigation]) -> dict[str, Learn]:
    """The reach of each term that does not reach all tokens."""
    names = dict.fromkeys(name for e in episodes for name in e.reward_terms)
    found: dict[str, Learn] = {}
    for m in mitigations:
        if not isinstance(m, TargetsTerms):
            continue
        for name in names:
            reach = call(m, m.target_term, name)
            if reach is None:
                continue
            if reach not in SEGMENTS:
                raise UserError(f"mitigations: {m.name}: target_term() gave {reach!r}; give all, scratchpad or output")
            if found.get(name, reach) != reach:
                raise UserError(f"mitigations: {m.name}: sends the term '{name}' to {reach}, another to {found[name]}")
            found[name] = reach
    return {name: reach for name, reach in found.items() if reach != "all"}


def _stream(episode: Episode, reaches: Mapping[str, Learn], reach: Learn) -> float | None:
    """The sum of an episode's terms of one reach; None if it has none of them, or is dropped.

    Of terms that reach all tokens the sum may be over none: a reply whose terms reach parts of it counts as 0 beside
    those that have the format penalty.
    """
    values = [value for name, value in episode.reward_terms.items() if reaches.get(name, "all") == reach]
    return sum(values) if (values or reach == "all") and episode.reward is not None else None


def _credit(episodes: Sequence[Episode], m: CreditsTokens) -> dict[int, list[Credit]]:
    """The credits of each episode that is learned, by its identity."""
    found: dict[int, list[Credit]] = {}
    for episode, credits in zip(episodes, call_each(m, m.credit_tokens, episodes), strict=True):
        if episode.reward is None or episode.parse != "ok":
            continue
        for credit in credits:
            where = f"mitigations: {m.name}: credit_tokens() gave {credit!r}"
            if not math.isfinite(credit.value):
                raise UserError(f"{where}: the value is not finite")
            if any(not 0 <= t < len(episode.segments) for t in credit.tokens):
                raise UserError(f"{where}: the episode has {len(episode.segments)} tokens")
        found[id(episode)] = credits
    return found


def _add_credit(
    groups: Sequence[Group],
    given: Mapping[int, list[Credit]],
    tokens: Sequence[list[float] | None],
    learns: Sequence[Sequence[bool]],
    count: CreditCount,
) -> None:
    """Adds a stream of credits to the advantages of the tokens; one without tokens is not in the baseline."""
    start = 0
    for group in groups:
        all_given = [(n, credit) for n, e in enumerate(group.episodes) for credit in given.get(id(e), ())]
        own = [(n, credit) for n, credit in all_given if credit.tokens]
        for n, _ in ((n, c) for n, c in all_given if not c.tokens and c.value):
            count.add(learns[start + n], ())
        for (n, credit), advantage in zip(own, centred([c.value for _, c in own], "none"), strict=True):
            row = tokens[start + n]
            assert row is not None
            if advantage:
                count.add(learns[start + n], credit.tokens)
            for token in credit.tokens:
                row[token] += advantage
        start += len(group.episodes)
