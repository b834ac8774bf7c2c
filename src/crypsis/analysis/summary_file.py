"""``summary.json``: what a study's summary holds for other programs (docs/results_format.md)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.summary import RULE, ArmSummary, Change, Summary, across_organisms
from crypsis.store import write_json

SUMMARY = "summary.json"


def summary_json(summary: Summary) -> dict[str, Any]:
    """The summary as ``summary.json`` holds it (design §4, further keys beside)."""
    timing = summary.study.timing
    return {
        "version": summary.study.version,
        "study": summary.study.name,
        "organisms": list(summary.organisms),
        "mitigations": [asdict(across) for across in across_organisms(summary)],
        "arms": [_arm_json(arm) for arm in summary.arms],
        "unfinished": [{"run": run.name, "reason": run.reason} for run in summary.study.unfinished],
        "verdict_rule": dict(RULE),
        "timing": {"seconds_total": timing.seconds_total, "episodes_per_second": timing.episodes_per_second},
    }


def write_summary(summary: Summary) -> Path:
    """Writes ``summary.json`` into the study's folder."""
    path = summary.study.folder / SUMMARY
    write_json(path, summary_json(summary))
    return path


def _arm_json(arm: ArmSummary) -> dict[str, Any]:
    keys = ("afr", "compliance_monitored", "compliance_unmonitored", "gap", "lying_rate", "scratchpad_tokens")
    extra = ("afr_monitor", "artefacts", "format_ok", "unparsed", "unreadable", "denial_rate")
    monitors = sorted(
        m
        for m in arm.metrics
        if m.startswith(("afr_", "missing_", "recall_", "fpr_", "lying_rate_")) and m not in extra
    )
    return {
        "organism": arm.organism,
        "mitigation": arm.mitigation,
        "train_on": arm.learn,
        "seeds": list(arm.seeds),
        "steps": arm.steps[1],
        **{key: _change_json(arm.change(key)) for key in keys},
        "arm": arm.arm,
        "label": arm.label,
        "few_seeds": not arm.claimed,
        "afr_source": arm.afr_source or None,
        "afr_monitor_name": arm.monitor or None,
        **{key: _change_json(arm.change(key)) for key in (*extra, *monitors)},
        "versus_baseline": {metric: _estimate_json(e) for metric, e in arm.versus_baseline.items()},
        "verdict": arm.verdict,
        "verdict_firm": arm.firm,
        "verdict_claimed": arm.claimed,
        "verdict_by_seed": arm.seed_verdicts,
        "end_by_seed": {key: {str(s): round(v, 6) for s, v in arm.change(key).end.by_seed} for key in keys},
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {"start": _estimate_json(change.start), "end": _estimate_json(change.end)}


def _estimate_json(estimate: SeedEstimate) -> dict[str, float | None]:
    ends = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
    return {name: None if value is None else round(value, 6) for name, value in ends.items()}
