"""All numbers of a study as tidy tables, one observation per row: ``tables/*.parquet``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.analysis.report.seed_checks import modes, paired_tests
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.summary import ArmSummary, Summary
from crypsis.store import write_atomic

TABLES = "tables"
Row = dict[str, Any]
WHO = {"organism": pa.string(), "arm": pa.string()}
ESTIMATE = {"mean": pa.float64(), "low": pa.float64(), "high": pa.float64(), "n": pa.int64(), "seeds": pa.int64()}
SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    "runs": {"run": pa.string(), **WHO, "label": pa.string(), "seed": pa.int64(), "mitigation": pa.string()}
    | {"train_on": pa.string(), "steps": pa.int64(), "status": pa.string(), "reason": pa.string()},
    "arms": {**WHO, "label": pa.string(), "mitigation": pa.string(), "train_on": pa.string(), "seeds": pa.int64()}
    | {"first_step": pa.int64(), "last_step": pa.int64(), "afr_source": pa.string(), "verdict": pa.string()}
    | {"verdict_firm": pa.bool_(), "verdict_claimed": pa.bool_()},
    "summary": {**WHO, "metric": pa.string(), "point": pa.string(), "step": pa.int64(), **ESTIMATE},
    "curves": {**WHO, "metric": pa.string(), "step": pa.int64(), **ESTIMATE},
    "seeds": {**WHO, "seed": pa.int64(), "step": pa.int64(), "metric": pa.string(), "value": pa.float64()}
    | {"n": pa.int64()},
    "tests": {**WHO, "test": pa.string(), "metric": pa.string(), "statistic": pa.float64(), "p": pa.float64()}
    | {"p_holm": pa.float64(), "seeds": pa.int64()},
    "training": {**WHO, "seed": pa.int64(), "step": pa.int64(), "field": pa.string(), "value": pa.float64()},
}
"""The columns of each table; documented in ``docs/results_format.md``."""


def write_tables(summary: Summary) -> list[Path]:
    """Writes every table into the study's folder; the same study gives the same bytes."""
    return [_write(summary.study.folder, name, rows) for name, rows in tables(summary).items()]


def tables(summary: Summary) -> dict[str, list[Row]]:
    """The rows of each table of ``SCHEMAS``."""
    arms = summary.arms
    return {
        "runs": list(_runs(summary)),
        "arms": [_arm(arm) for arm in arms],
        "summary": [row for arm in arms for row in _ends(arm)],
        "curves": [row for arm in arms for row in _curves(arm)],
        "seeds": [row for arm in arms for row in _seeds(arm)],
        "tests": list(_tests(summary)),
        "training": [row for arm in arms for row in _training(arm)],
    }


def _write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / TABLES / f"{name}.parquet"
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(SCHEMAS[name])), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return path


def _runs(summary: Summary) -> Iterator[Row]:
    for arm in summary.arms:
        about = {"organism": arm.organism, "arm": arm.arm, "label": arm.label, "mitigation": arm.mitigation}
        for run in arm.runs:
            yield (
                about
                | {"run": run.folder.name, "seed": run.seed, "train_on": run.learn, "steps": run.steps}
                | {
                    "status": "done",
                    "reason": "",
                }
            )
    for left in summary.study.unfinished:
        yield {"run": left.name, "status": "unfinished", "reason": left.reason}


def _arm(arm: ArmSummary) -> Row:
    return {
        **_who(arm),
        "label": arm.label,
        "mitigation": arm.mitigation,
        "train_on": arm.learn,
        "seeds": len(arm.runs),
        "first_step": arm.steps[0],
        "last_step": arm.steps[1],
        "afr_source": arm.afr_source,
        "verdict": arm.verdict,
        "verdict_firm": arm.firm,
        "verdict_claimed": arm.claimed,
    }


def _ends(arm: ArmSummary) -> Iterator[Row]:
    """Start and end of every metric, and the difference from the baseline."""
    first, last = arm.steps
    for metric, change in arm.metrics.items():
        for point, step, found in (("start", first, change.start), ("end", last, change.end)):
            yield {**_who(arm), "metric": metric, "point": point, "step": step, **_estimate(found)}
    for metric, found in arm.versus_baseline.items():
        yield {**_who(arm), "metric": metric, "point": "versus_baseline", "step": last, **_estimate(found)}


def _curves(arm: ArmSummary) -> Iterator[Row]:
    for metric, curve in arm.curves.items():
        for step, point in zip(curve.steps, curve.points, strict=True):
            yield {**_who(arm), "metric": metric, "step": step, **_estimate(point)}


def _seeds(arm: ArmSummary) -> Iterator[Row]:
    """Every metric of every evaluation of every run."""
    for run in arm.runs:
        for step, tally in sorted(run.evaluations.items()):
            for metric in tally.top:
                value = tally.mean(metric)
                n = int(tally.bottom[metric].sum())
                yield {**_who(arm), "seed": run.seed, "step": step, "metric": metric, "value": value, "n": n}


def _tests(summary: Summary) -> Iterator[Row]:
    """The mean paired difference from the baseline and its p, and the dip of the seeds at the end."""
    for t in paired_tests(summary):
        about = {"organism": t.organism, "arm": t.arm, "test": "paired", "metric": t.metric}
        yield about | {"statistic": t.difference, "p": t.p, "p_holm": t.p_holm, "seeds": t.seeds}
    for m in modes(summary):
        about = {"organism": m.organism, "arm": m.arm, "test": "dip", "metric": m.metric}
        yield about | {"statistic": m.dip, "p": m.p, "p_holm": None, "seeds": len(m.values)}


def _training(arm: ArmSummary) -> Iterator[Row]:
    """Every number of ``metrics.jsonl``."""
    for run in arm.runs:
        for row in run.training:
            for field, value in row.items():
                if field != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield {**_who(arm), "seed": run.seed, "step": row["step"], "field": field, "value": float(value)}


def _who(arm: ArmSummary) -> Row:
    return {"organism": arm.organism, "arm": arm.arm}


def _estimate(found: SeedEstimate) -> Row:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "seeds": len(found.by_seed)}
