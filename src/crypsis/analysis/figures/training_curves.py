"""What ``metrics.jsonl`` tells over training, by arm: fields over steps, terms of the reward."""

from __future__ import annotations

from collections.abc import Sequence

from crypsis.analysis.figures.drawing import Points
from crypsis.analysis.summary import ArmSummary

TERM, SHARE, SPREAD = "term_", "share_", "term_std_"
"""Prefixes of the fields that hold a term's mean, its share of the advantage's variance, and its spread."""
FIRST = ("preference", "length", "format")
"""Terms that every run may have, in the order in which they are drawn."""


def terms_of(arms: Sequence[ArmSummary]) -> list[str]:
    """Names of all terms of the reward that any of the arms has, those of every run first."""
    fields: set[str] = set().union(*(row for arm in arms for run in arm.runs for row in run.training))
    found = {f.removeprefix(TERM) for f in fields if f.startswith(TERM) and not f.startswith(SPREAD)}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def parts_of(kind: str) -> str:
    """The prefix of the fields that a figure shows: ``terms`` or ``shares``."""
    return TERM if kind == "terms" else SHARE


def field_points(arm: ArmSummary, field: str) -> tuple[Points, list[Points]]:
    """A field of ``metrics.jsonl`` over training.

    A step in which no episode has a term does not record it: the term is 0 there if the arm has it in any other step.

    Returns:
        Its mean over seeds at the steps that all seeds have, and the (step, value) points of each seed.
    """
    if not any(field in row for run in arm.runs for row in run.training):
        return [], []
    absent = 0.0 if field.startswith((TERM, SHARE)) else None
    seeds = [
        [
            (int(row["step"]), float(value))
            for row in run.training
            if isinstance(value := row.get(field, absent), (int, float))
        ]
        for run in arm.runs
    ]
    seeds = [points for points in seeds if points]
    if len(seeds) < len(arm.runs):
        return [], [*seeds]
    values = [dict(points) for points in seeds]
    steps = sorted(set.intersection(*(set(one) for one in values)))
    return [(step, sum(one[step] for one in values) / len(values)) for step in steps], [*seeds]
