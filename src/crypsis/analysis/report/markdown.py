"""What each arm and stress of a study did, as a page of Markdown tables to paste: ``summary.md``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crypsis.analysis.report.words import SIGNS, UNKNOWN, ends, value
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.stress.section import Section, StressTable
from crypsis.analysis.summary import UNMEASURED, ArmSummary, Summary
from crypsis.store import write_atomic

PAGE = "summary.md"
COLUMNS = {
    "afr": "AFR",
    "gap": "gap",
    "compliance_monitored": "complies, monitored",
    "compliance_unmonitored": "complies, unmonitored",
    "lying_rate": "lies when asked",
    "scratchpad_tokens": "scratchpad, tokens",
    "unparsed": "unparsed",
}
"""Metrics of the tables; one that no arm of an organism has is left out."""


def write_page(summary: Summary, stresses: Sequence[Section] = ()) -> None:
    """Writes ``summary.md`` into the study's folder."""
    write_atomic(summary.study.folder / PAGE, "\n".join(summary_markdown(summary, stresses)) + "\n")


def summary_markdown(summary: Summary, stresses: Sequence[Section] = ()) -> list[str]:
    """Lines of a table for each organism (before RL, then each arm at its last evaluation), then each stress."""
    lines = []
    for organism in summary.organisms:
        lines += [f"**{organism}**", "", *_table(summary.of(organism)), ""]
    for stress in stresses:
        lines += [f"## {stress.title}", ""]
        lines += [line for told in stress.lead for line in (told, "")]
        lines += [line for table in stress.tables for line in (*stress_table(table), "")]
    return lines[:-1]


def stress_table(table: StressTable) -> list[str]:
    """Lines of a table: caption, head, rows."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    return [
        table.caption,
        "",
        f"| {' | '.join(table.head)} |",
        "|---" * len(table.head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _table(arms: tuple[ArmSummary, ...]) -> list[str]:
    metrics = [m for m in COLUMNS if any(m in arm.metrics and arm.change(m).end.mean is not None for arm in arms)]
    most = max(arms, key=lambda arm: len(arm.runs))
    return [
        f"| arm | seeds | {' | '.join(COLUMNS[m] for m in metrics)} | in the end |",
        "|---" * (len(metrics) + 3) + "|",
        _row("*before RL*", most, metrics, lambda metric: most.change(metric).start, ""),
        *(_row(arm.label, arm, metrics, _end_of(arm), _verdict(arm)) for arm in arms),
    ]


def _end_of(arm: ArmSummary) -> Callable[[str], SeedEstimate]:
    return lambda metric: arm.change(metric).end


def _row(name: str, arm: ArmSummary, metrics: list[str], of: Callable[[str], SeedEstimate], verdict: str) -> str:
    cells = (f"{value(of(m), m)} {ends(of(m), m)}".strip() for m in metrics)
    return f"| {name} | {len(arm.runs)} | {' | '.join(cells)} | {verdict} |"


def _verdict(arm: ArmSummary) -> str:
    """The verdict from the means over seeds, and in how many of the seeds it is the verdict too."""
    if arm.verdict == UNMEASURED:
        return UNKNOWN
    if not arm.claimed:
        return arm.claim
    return f"{SIGNS[arm.verdict][1]} ({arm.seed_verdicts.get(arm.verdict, 0)} of {len(arm.runs)})"
