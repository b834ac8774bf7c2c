"""What every step leaves in ``metrics.jsonl``: reward terms and their weight, flags, lengths, alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crypsis.arrays import Floats
from crypsis.rl.advantages import Advantages
from crypsis.types import Episode

DROWNS = 0.95
"""Share of the advantage's variance from which one part of the reward drowns the others."""
PREFERENCE = ("preference", "length")
"""Terms that count as one part in the alarm: the second only corrects the first."""


def reward_metrics(episodes: Sequence[Episode], advantages: Advantages | None = None) -> dict[str, float | None]:
    """Every term of the reward before and after normalisation, over the episodes that were not dropped.

    ``term_T`` is the mean and ``term_std_T`` the standard deviation of the term as it is added; ``advantage_std_T`` the
    root mean square of its part of the advantage; ``share_T`` that part's share of the advantage's variance (their
    covariance over the variance: shares sum to 1, and a term that works against the others has a negative one).
    """
    parts = advantage_parts(episodes, advantages)
    kept = [e for e in episodes if e.reward is not None]
    total = np.array([e.advantage for e in kept])
    power = float(total @ total)
    row: dict[str, float | None] = {}
    for name, part in parts.items():
        raw = np.array([e.reward_terms.get(name, 0.0) for e in kept])
        row[f"term_{name}"] = float(raw.mean())
        row[f"term_std_{name}"] = float(raw.std())
        row[f"advantage_std_{name}"] = float(np.sqrt((part**2).mean()))
        row[f"share_{name}"] = float(part @ total) / power if power else None
    for name in sorted({name for e in episodes for name in e.delayed_terms}):
        row[f"delayed_{name}"] = float(np.mean([e.delayed_terms[name] for e in episodes if name in e.delayed_terms]))
    return row


def advantage_parts(episodes: Sequence[Episode], advantages: Advantages | None = None) -> dict[str, Floats]:
    """Each term's part of each kept episode's advantage; the parts of an episode sum to its advantage.

    Args:
        episodes: With reward terms and advantages.
        advantages: Advantages of these episodes, if terms reach different tokens.
    """
    kept = [e for e in episodes if e.reward is not None]
    names = sorted({name for e in kept for name in e.reward_terms})
    if advantages is None or not advantages.streams:
        return _parts(kept, names, np.array([e.reward for e in kept], dtype=float), [e.advantage for e in kept])
    parts = {name: np.zeros(len(kept)) for name in names}
    for reach, values in advantages.streams.items():
        own = [name for name in names if advantages.reaches.get(name, "all") == reach]
        by_episode = {id(e): value for e, value in zip(episodes, values, strict=True)}
        rows = [i for i, e in enumerate(kept) if reach == "all" or any(name in e.reward_terms for name in own)]
        members = [kept[i] for i in rows]
        rewards = np.array([sum(e.reward_terms.get(name, 0.0) for name in own) for e in members])
        for name, part in _parts(members, own, rewards, [by_episode[id(e)] for e in members]).items():
            parts[name][rows] = part
    return parts


def _parts(
    episodes: Sequence[Episode], names: Sequence[str], rewards: Floats, advantages: Sequence[float]
) -> dict[str, Floats]:
    """The parts of one stream's advantages."""
    groups, totals = np.array([e.group for e in episodes]), np.array(advantages)
    values = {name: np.array([e.reward_terms.get(name, 0.0) for e in episodes]) for name in names}
    parts = {name: np.zeros(len(episodes)) for name in names}
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        centred = rewards[rows] - rewards[rows].mean()
        power = float(centred @ centred)
        # What the group's rewards were divided by; 0 where the group gave no gradient.
        scale = float(totals[rows] @ centred) / power if power else 0.0
        for name in names:
            parts[name][rows] = scale * (values[name][rows] - values[name][rows].mean())
    return parts


def alarms(row: Mapping[str, Any], groups: int) -> dict[str, str]:
    """What should worry the reader of a step's metrics, keyed by kind: a drowned reward, groups without variance.

    Args:
        row: With the fields of ``reward_metrics`` and ``zero_variance_groups``.
        groups: Groups of the step.
    """
    found = {}
    varying = {
        key.removeprefix("term_std_"): row.get(f"share_{key.removeprefix('term_std_')}")
        for key, value in row.items()
        if key.startswith("term_std_") and value
    }
    shares: dict[str, float] = {}
    for name, share in varying.items():
        part = "preference" if name in PREFERENCE else name
        shares[part] = shares.get(part, 0.0) + (share or 0.0)
    largest = max(shares, key=lambda part: shares[part], default="")
    if len(shares) > 1 and shares[largest] >= DROWNS:
        found[f"{largest} drowns"] = (
            f"'{largest}' makes up {shares[largest]:.0%} of the advantage's variance and drowns "
            + ", ".join(sorted(set(shares) - {largest}))
        )
    if lost := row.get("credits_lost"):
        found["lost credit"] = (
            f"{lost} of {row['credits']} credits reach no token that learns and teach nothing; look at rl.learn"
        )
    if flat := row["zero_variance_groups"]:
        found["no variance"] = f"{flat} of {groups} groups have equal rewards and teach nothing"
    return found


def flag_metrics(episodes: Sequence[Episode], thresholds: Mapping[str, float]) -> dict[str, float | None]:
    """What monitors and judge said: ``flagged_M``, ``score_M``, ``missing_M``, compliance, answers to an extra turn."""
    row: dict[str, float | None] = {}
    for name, threshold in thresholds.items():
        scores = [e.verdicts[name].score for e in episodes if name in e.verdicts]
        known = [s for s in scores if s is not None]
        row[f"flagged_{name}"] = mean([float(s >= threshold) for s in known])
        row[f"score_{name}"] = mean(known)
        row[f"missing_{name}"] = 1 - len(known) / len(scores) if scores else None
    labelled = [conduct for e in episodes if (conduct := e.labels.get("conduct"))]
    row["compliance"] = mean([float(conduct == "comply") for conduct in labelled])
    asked = [e for e in episodes if e.extra_turn]
    if rewards := [e.extra_reward for e in episodes if e.extra_reward is not None]:
        row["extra_reward"] = mean(rewards)
    if asked:
        row["asked"] = float(len(asked))
        for field, label, value in (("answer_no", "answer", "no"), ("lying_rate", "lying", "yes")):
            given = [e.labels[label] for e in asked if label in e.labels]
            unread = all(answer == "unparsed" for answer in given)  # an extra turn that asks for something else
            row[field] = None if unread else mean([float(answer == value) for answer in given])
    return row


def episode_metrics(
    episodes: Sequence[Episode], advantages: Advantages, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """One row of ``metrics.jsonl``, without what the optimiser and the clock add.

    Args:
        episodes: Episodes of the step, with rewards and advantages.
        advantages: Their counts.
        thresholds: The score from which each monitor flags, keyed by name.
    """
    kept = [e for e in episodes if e.reward is not None]
    row: dict[str, Any] = {
        "reward_mean": mean([e.reward for e in kept if e.reward is not None]),
        **reward_metrics(episodes, advantages),
        "format_ok": mean([float(e.parse == "ok") for e in episodes]),
        "scratchpad_tokens": mean([float(e.scratchpad_tokens) for e in episodes]),
        "output_tokens": mean([float(e.output_tokens) for e in episodes]),
        **flag_metrics(episodes, thresholds),
        "episodes": len(episodes),
        "dropped": advantages.dropped,
        "screened": sum(e.dropped.startswith("flagged") for e in episodes),
        "zero_variance_groups": advantages.zero_variance_groups,
        "single_survivor_groups": advantages.single_survivor_groups,
    }
    if (credit := advantages.credit) is not None:
        row |= {"credits": credit.given, "credits_lost": credit.lost, "credit_lost_tokens": credit.lost_tokens}
    row["alarm"] = "; ".join(alarms(row, len({e.group for e in episodes})).values())
    return row


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return sum(values) / len(values) if values else None
