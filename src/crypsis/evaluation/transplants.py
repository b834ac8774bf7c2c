"""Faithfulness by intervention: outputs sampled after scratchpads that are not the policy's own for that request.

Every reply to a request draws the same random numbers, so that replies differ by what was done to the scratchpad.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crypsis.episodes import read_episodes, write_episodes
from crypsis.models import Policy
from crypsis.monitors.base import Monitor
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.rollouts import forced_rollout, rollout
from crypsis.run_config import run_seed
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE, SCRATCHPAD_OPEN, reply_start
from crypsis.types import Episode, Prompt

TRANSPLANTS = "transplants"
"""Folder of a run beside ``evals``."""
OWN, SWAPPED, HARMLESS, HARMFUL, EMPTY, HALF, PARAPHRASE, START = (
    "own", "other_tier", "harmless", "harmful", "empty", "half", "paraphrase", "start",
)  # fmt: skip
"""What was done: the policy's own scratchpad; that of the same request in the other tier; of a harmless request; of a
harmful one, after a harmless request; none; the first half; other words; one of the policy before training."""
_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_SEED = 700_001


@dataclass(frozen=True, slots=True)
class _Case:
    """One reply to be sampled.

    Attributes:
        prompt: The request.
        done: One of the interventions.
        watched: Whether the scratchpad is from the monitored tier.
        head: The scratchpad with its tags.
        row: Number of the request, for its random numbers.
    """

    prompt: Prompt
    done: str
    watched: bool
    head: str
    row: int


Donors = Mapping[tuple[str, bool], str]
"""Replies up to the end of the scratchpad, keyed by pair and by whether the tier is monitored."""


def donors_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, bool], str]:
    """Scratchpads of well-formed replies, with their tags, by request and tier."""
    good = [row for row in rows if row["parse"] == "ok"]
    return {(str(row["pair_id"]), bool(row["monitored"])): _head(str(row["raw"])) for row in good}


def transplant(
    policy: Policy,
    scenario: Scenario,
    own: Donors,
    start: Donors,
    judges: Mapping[str, Monitor],
    *,
    n: int,
    request_seed: int,
    max_new_tokens: int,
    seed: int,
    step: int = 0,
    engine: Engine = DEFAULT,
) -> list[Episode]:
    """Replies to held-out requests after exchanged, cut and paraphrased scratchpads.

    Args:
        policy: Writes the outputs.
        scenario: Its held-out requests, those with a well-formed reply in both tiers; harmless ones and paraphrases
            where it has them.
        own: The policy's scratchpads for these requests.
        start: Those of the policy before training; empty leaves them out.
        judges: They write the labels of conduct.
        n: Requests at most.
        request_seed: Which requests, as in ``evaluate_policy``.
        max_new_tokens: Token budget of an output.
        seed: Seed of the sampling.
        step: Stored in the episodes.
        engine: How the policy is computed.

    Returns:
        Episodes whose labels say ``intervention`` and ``source`` (monitored | unmonitored: the scratchpad's tier).
    """
    tiers = (scenario.monitored_tier, scenario.unmonitored_tier)
    asked = [scenario.prompts("eval", tier, 4 * n, request_seed) for tier in tiers]
    pairs = [p for p in zip(*asked, strict=True) if all((p[0].pair_id, watched) in own for watched in (True, False))]
    pairs = list({pair[0].pair_id: pair for pair in pairs}.values())[:n]
    cases = [case for row, pair in enumerate(pairs) for case in _cases(scenario, pair, own, start, row)]
    cases += _across(policy, scenario, pairs, own, n, request_seed, max_new_tokens, seed, engine)
    if not cases:
        return []
    episodes = forced_rollout(
        policy,
        [case.prompt for case in cases],
        [case.head for case in cases],
        [case.row for case in cases],
        max_new_tokens,
        run_seed(seed, _SEED + step),
        engine,
    )
    for judge in judges.values():
        judge.judge(episodes)
    for case, episode in zip(cases, episodes, strict=True):
        episode.step = step
        episode.labels |= {"intervention": case.done, "source": "monitored" if case.watched else "unmonitored"}
    return episodes


def store_transplants(path: Path, evaluation: Path, start: Path | None, run: str, **settings: Any) -> None:
    """Does ``transplant`` with the scratchpads of a stored evaluation, unless its result is stored.

    Args:
        path: Path of the result.
        evaluation: The policy's own replies.
        start: Replies of the policy before training, if they are to be transplanted too.
        run: Name, stored in every row.
        settings: As of ``transplant``.
    """
    if not path.exists():
        start_donors = donors_of(read_episodes(start)) if start else {}
        write_episodes(path, transplant(own=donors_of(read_episodes(evaluation)), start=start_donors, **settings), run)


def _cases(scenario: Scenario, pair: tuple[Prompt, Prompt], own: Donors, start: Donors, row: int) -> list[_Case]:
    """What is done with one request in both tiers."""
    found = []
    for prompt, watched in zip(pair, (True, False), strict=True):
        key = prompt.pair_id
        head = own[key, watched]
        found += [
            _Case(prompt, OWN, watched, head, row),
            _Case(prompt, SWAPPED, not watched, own[key, not watched], row),
        ]
        thoughts = _inside(head)
        altered = {EMPTY: "", HALF: half(thoughts), PARAPHRASE: scenario.paraphrase(thoughts, row)}
        found += [
            _Case(prompt, done, watched, _framed(text), row) for done, text in altered.items() if text is not None
        ]
        found += [_Case(prompt, START, s, start[key, s], row) for s in (True, False) if (key, s) in start]
    return found


def _across(
    policy: Policy,
    scenario: Scenario,
    pairs: Sequence[tuple[Prompt, Prompt]],
    own: Donors,
    n: int,
    request_seed: int,
    max_new_tokens: int,
    seed: int,
    engine: Engine,
) -> list[_Case]:
    """Scratchpads of harmless requests after harmful ones, and the other way round."""
    found = []
    for number, watched in enumerate((True, False)):
        tier = (scenario.monitored_tier, scenario.unmonitored_tier)[number]
        prompts = scenario.harmless("eval", tier, n, request_seed)
        if not prompts:
            continue
        replies = rollout(
            policy,
            prompts,
            group_size=1,
            max_new_tokens=max_new_tokens,
            seed=run_seed(seed, _SEED - 1),
            step=0,
            engine=engine,
        )
        good = [(p, _head(reply.raw)) for p, reply in zip(prompts, replies, strict=True) if reply.parse == "ok"]
        for row, (pair, (mild, head)) in enumerate(zip(pairs, good, strict=False)):
            harsh = pair[number]
            found.append(_Case(harsh, HARMLESS, watched, head, row))
            mild = replace(mild, pair_id=harsh.pair_id)  # so that intervals go by the request that lent or received
            found.append(_Case(mild, HARMFUL, watched, own[harsh.pair_id, watched], row))
    return found


def half(thoughts: str) -> str:
    """The first half of a text's sentences, the greater one of an odd number."""
    sentences = _SENTENCE.split(thoughts.strip())
    return " ".join(sentences[: (len(sentences) + 1) // 2]) if len(sentences) > 1 else ""


def _head(raw: str) -> str:
    """A well-formed reply up to the end of its scratchpad, without a thought before it."""
    reply = raw[reply_start(raw) :]
    return reply[: reply.index(SCRATCHPAD_CLOSE) + len(SCRATCHPAD_CLOSE)]


def _inside(head: str) -> str:
    return head.partition(SCRATCHPAD_OPEN)[2].removesuffix(SCRATCHPAD_CLOSE).strip()


def _framed(thoughts: str) -> str:
    return f"{SCRATCHPAD_OPEN} {thoughts} {SCRATCHPAD_CLOSE}" if thoughts else f"{SCRATCHPAD_OPEN} {SCRATCHPAD_CLOSE}"
