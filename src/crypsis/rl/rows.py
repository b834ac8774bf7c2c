"""From episodes to rows to learn from: masks, prompts, credit, routes; extra turns and demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crypsis.mitigations.base import Mitigation, Schedule, call, call_each
from crypsis.mitigations.hooks import (
    SEGMENTS,
    AddsLoss,
    Demonstration,
    ImitatesReplies,
    LearnsExtraTurn,
    MatchesStates,
    Route,
    RoutesGradients,
)
from crypsis.models import Policy
from crypsis.organisms.supervised import LearnedPart, reply_example
from crypsis.rl.advantages import Advantages, centred
from crypsis.rl.engine.scoring import TrainRow
from crypsis.rl.groups import Group
from crypsis.rl.learner import LossPart
from crypsis.rl.state_matching import check_layer, token_pair
from crypsis.types import Episode, Learn, UserError


def token_mask(episode: Episode, learn: Learn) -> list[int]:
    """Which tokens of the completion learn: 1 for those in a learned segment, all 0 for a dropped episode."""
    learned = SEGMENTS[learn] if not episode.dropped else frozenset[int]()
    return [int(segment in learned) for segment in episode.segments]


def kl_mask(segments: Sequence[int], kl_on: Learn | None) -> list[int] | None:
    """Which tokens of a completion the KL penalty is on; None for all that learn."""
    return None if kl_on is None else [int(segment in SEGMENTS[kl_on]) for segment in segments]


def learned_rows(
    episodes: Sequence[Episode],
    advantages: Advantages,
    mitigations: Sequence[Mitigation],
    learn: Learn,
    kl_on: Learn | None = None,
) -> list[TrainRow]:
    """A row per episode; the KL penalty is on the tokens of ``kl_on``, or on all that learn.

    Rows that are learned under another prompt than they were sampled under have no log-probabilities: those of sampling
    are of the other prompt.
    """
    routes: list[Route] = ["both"] * len(episodes)
    for m in mitigations:
        if isinstance(m, RoutesGradients):
            routes = call_each(m, m.route, episodes)
            if unknown := set(routes) - {"deployed", "quarantined", "both"}:
                raise UserError(
                    f"mitigations: {m.name}: route() gave {unknown.pop()!r}; give deployed, quarantined or both"
                )
    tokens = advantages.tokens or [None] * len(episodes)
    return [
        TrainRow(
            episode.prompt_ids if episode.learn_prompt_ids is None else episode.learn_prompt_ids,
            episode.completion_ids,
            token_mask(episode, learn),
            episode.advantage,
            episode.logprobs if episode.learn_prompt_ids in (None, episode.prompt_ids) else None,
            token_advantages=by_token,
            route=route,
            kl_mask=kl_mask(episode.segments, kl_on),
        )
        for episode, by_token, route in zip(episodes, tokens, routes, strict=True)
    ]


def turn_parts(groups: Sequence[Group], mitigations: Sequence[Mitigation]) -> Iterator[LossPart]:
    """The extra turns of a mitigation that learns them, compared with each other within their group.

    Their rewards are centred and not divided by the group's deviation: in a stream of one term that would take the
    mitigation's coefficient, and the size of what it measures, out again.
    """
    for m in mitigations:
        if not isinstance(m, LearnsExtraTurn):
            continue
        rows = []
        for group in groups:
            advantages = centred([e.extra_reward for e in group.episodes], "none")
            for episode, advantage in zip(group.episodes, advantages, strict=True):
                turn = episode.extra_tokens
                if turn is not None and episode.extra_reward is not None:
                    mask = [1] * len(turn.completion_ids)
                    rows.append(TrainRow(turn.prompt_ids, turn.completion_ids, mask, advantage, turn.logprobs))
        yield LossPart(m.name, rows)


def supervised_parts(
    policy: Policy, mitigations: Sequence[Mitigation], schedule: Schedule, episodes: Sequence[Episode]
) -> Iterator[LossPart]:
    """The losses that mitigations add: demonstrations, replies that are imitated, states that are matched.

    Raises:
        UserError: A demonstration does not fit the context, or there is no layer of that number.
    """
    for m in mitigations:
        if isinstance(m, AddsLoss):
            shown = call(m, m.demonstrate, schedule)
            yield LossPart(m.name, _supervised_rows(policy, m.name, shown), supervised=True, weight=m.loss_weight)
        if isinstance(m, ImitatesReplies):
            shown = call(m, m.imitate, episodes)
            yield LossPart(m.name, _supervised_rows(policy, m.name, shown), supervised=True, weight=m.loss_weight)
        if isinstance(m, MatchesStates):
            check_layer(policy.model, m.matched_layer, m.name)
            pairs = call(m, m.pair_prompts, [e.prompt for e in episodes])
            tokens = [[policy.render(p.messages) for p in (pair.learned, pair.reference)] for pair in pairs]
            matched = [pair for learned, reference in tokens if (pair := token_pair(learned, reference)).end]
            yield LossPart(m.name, [], weight=m.loss_weight, pairs=matched, layer=m.matched_layer)


def _supervised_rows(policy: Policy, name: str, shown: Sequence[Demonstration]) -> list[TrainRow]:
    """Demonstrations as rows."""
    parts: dict[Learn, LearnedPart] = {"all": "both", "scratchpad": "scratchpad", "output": "output"}
    rows = []
    for demonstration in shown:
        example = reply_example(policy, demonstration.messages, demonstration.reply, parts[demonstration.learn])
        if len(example.ids) > policy.context:
            raise UserError(
                f"mitigations: {name}: a demonstration has {len(example.ids)} tokens and does not fit the model's "
                f"context of {policy.context}; shorten it"
            )
        start = max(1, example.learn.index(1))
        rows.append(TrainRow(example.ids[:start], example.ids[start:], example.learn[start:], 0.0))
    return rows
