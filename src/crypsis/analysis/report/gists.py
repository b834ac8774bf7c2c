"""One line for each section of the report that is folded: what a reader would find in it."""

from __future__ import annotations

from collections.abc import Sequence

from crypsis.analysis.report.differences import Differences
from crypsis.analysis.report.words import percent
from crypsis.analysis.stress.section import Section
from crypsis.analysis.summary import ArmSummary, Summary

SHARE = "share_"
"""Prefix of the fields of ``metrics.jsonl`` that hold a term's share of the advantage's variance."""


def gists(summary: Summary, stresses: Sequence[Section], differences: Sequence[Differences]) -> dict[str, str]:
    """Keyed by the section: ``reward``, ``drift``, ``differences``, ``made``, and the key of each stress."""
    count, seconds = sum(len(found.rows) for found in differences), summary.study.timing.seconds_total
    took = f"; {seconds:.0f} s in all" if seconds is not None else ""
    left = f"; {len(summary.study.unfinished)} runs left out" if summary.study.unfinished else ""
    return {
        "reward": _taught(summary.arms),
        "drift": _drift(summary.arms),
        "differences": f"{count} setting{'' if count == 1 else 's'} in which arms differ",
        "made": f"crypsis {summary.study.version}{took}{left}: command, versions, config",
        **{stress.key: _stress(stress) for stress in stresses},
    }


def _stress(stress: Section) -> str:
    """Its first finding, else what its tables show."""
    return stress.lead[0] if stress.lead else " ".join(table.caption for table in stress.tables[:1])


def _drift(arms: Sequence[ArmSummary]) -> str:
    """The worst that any arm ends with; what was not measured is said to be."""
    parts = []
    for metric, worst, said in (
        ("unparsed", max, "unparsed at most {}"),
        ("format_ok", min, "well formed at least {}"),
    ):
        ends = [arm.change(metric).end.mean for arm in arms]
        known = [end for end in ends if end is not None]
        parts.append(said.format(f"{percent(worst(known))} %") if known else f"{said.split(' at')[0]}: not measured")
    return f"At the end, over all arms: {', '.join(parts)}"


def _taught(arms: Sequence[ArmSummary]) -> str:
    """The term with the largest share of the advantage's variance in each arm, at its last step."""
    if len(arms) > 6:
        return "Terms of the reward, and each one's share of the advantage's variance"
    said = []
    for arm in arms:
        last = [run.training[-1] for run in arm.runs if run.training]
        fields = sorted({field for row in last for field in row if field.startswith(SHARE)})
        means = {field: sum(float(row.get(field) or 0.0) for row in last) / len(last) for field in fields}
        if means:
            most = max(means, key=lambda field: means[field])
            name = most.removeprefix(SHARE).replace("_", " ")
            said.append(f"{arm.label}: {name} {100 * means[most]:.0f} %".replace("-", "−"))
    return (
        f"Largest share of the advantage's variance at the last step: {'; '.join(said)}"
        if said
        else "Terms of the reward"
    )
