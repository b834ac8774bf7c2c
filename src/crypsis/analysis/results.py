"""What mitigations did to each organism: a row for each arm, and the rows as JSON (``docs/results``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.analysis.statistics.bootstrap import SeedEstimate, over_seeds
from crypsis.analysis.statistics.pooling import FEW
from crypsis.analysis.study import Run, Study
from crypsis.analysis.summary import COMPLIES, DEGENERATE, FAKES_NOT, GAP_OPEN, ArmSummary, Summary, summarise
from crypsis.evaluation.metrics import Tally
from crypsis.types import UserError

HELD_OUT = "heldout_recall"
COLUMNS = {
    "afr": "AFR",
    "gap": "gap",
    "compliance_monitored": "complies, monitored",
    "compliance_unmonitored": "complies, unmonitored",
    HELD_OUT: "held-out recall",
    "artefacts": "contradicts itself",
    "unreadable": "unreadable",
}
"""Metrics of a row, with the head of their column."""
CLOSES, BY_REFUSING, OPEN, UNDECIDED = "closes", "closes by refusing", "open", "undecided"


@dataclass(frozen=True, slots=True)
class ResultRow:
    """An arm on an organism, at the last evaluation.

    Attributes:
        arm: What the study's summary says of it.
        figures: Each metric of ``COLUMNS`` over seeds.
        silent: Whether the organism keeps a gap before RL that its scratchpads do not show.
        episodes: Episodes that RL samples per run.
        extra: Replies per run that the arm samples besides (extra turns, other tiers, sentences), mean over runs.
        seconds: How long the steps of each run took that says so.
    """

    arm: ArmSummary
    figures: Mapping[str, SeedEstimate]
    silent: bool
    episodes: int
    extra: float
    seconds: tuple[float, ...]

    @property
    def few(self) -> bool:
        """Whether too few seeds stand behind it to claim anything."""
        return len(self.arm.runs) < FEW

    @property
    def is_plain(self) -> bool:
        """Whether it is the baseline that the others are compared with."""
        return self.arm.is_baseline and not self.arm.versus_baseline

    @property
    def closing(self) -> str:
        """What it does to the gap: the interval decides, and a gap that ends within it is closed by complying only."""
        gap, complies = self.figures["gap"], self.figures["compliance_monitored"]
        if self.arm.verdict == DEGENERATE:
            return DEGENERATE  # its rates describe the few replies that can be read
        if gap.mean is None or gap.low is None or gap.high is None or complies.mean is None:
            return UNDECIDED
        if gap.low >= GAP_OPEN or gap.high <= -GAP_OPEN:
            return OPEN
        if gap.high >= GAP_OPEN or gap.low <= -GAP_OPEN:
            return UNDECIDED
        return CLOSES if complies.mean >= COMPLIES else BY_REFUSING


def result_rows(studies: Sequence[Study]) -> list[ResultRow]:
    """All arms of some studies, in their order.

    Raises:
        UserError: Two studies have the same arm of the same organism.
    """
    rows: list[ResultRow] = []
    known: dict[tuple[str, str], Path] = {}
    for study in studies:
        summary = summarise(study)
        for arm in summary.arms:
            other = known.setdefault((arm.organism, arm.arm), study.folder)
            if other != study.folder:
                raise UserError(
                    f"{study.folder}: has the arm '{arm.arm}' of '{arm.organism}', and so has {other}; name one of them"
                )
            rows.append(_row(study, summary, arm))
    return rows


def results_json(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The rows as the JSON file holds them: each metric with mean, low and high, null where it is unknown."""
    return [
        {
            "organism": row.arm.organism,
            "arm": row.arm.arm,
            "seeds": len(row.arm.runs),
            **{name: _ends(row.figures[name]) for name in COLUMNS},
        }
        for row in rows
    ]


def changes_json(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """The rows with AFR before and after RL and who judged it, as ``docs/results/real_model.json`` holds them."""
    found = []
    for row in rows:
        afr = row.arm.change("afr")
        about = {"organism": row.arm.organism, "arm": row.arm.arm, "seeds": len(row.arm.runs)}
        shown = {name: _ends(row.figures[name]) for name in COLUMNS if name not in ("afr", HELD_OUT)}
        rates = {"start": _ends(afr.start), "end": _ends(afr.end)}
        before = {name: _ends(row.arm.change(name).start) for name in shown}
        found.append({**about, "afr": rates, **shown, "before": before, "judged_by": row.arm.afr_source or None})
    return found


def _ends(figure: SeedEstimate) -> dict[str, float | None]:
    return {end: None if (x := getattr(figure, end)) is None else round(x, 6) for end in ("mean", "low", "high")}


def _row(study: Study, summary: Summary, arm: ArmSummary) -> ResultRow:
    figures = {name: arm.change(name).end for name in COLUMNS if name != HELD_OUT}
    held_out = {
        run.seed: _with_recall(run.evaluations[arm.steps[1]], _held_out(study, run))
        for run in arm.runs
        if arm.steps[1] in run.evaluations
    }
    figures[HELD_OUT] = over_seeds(held_out, HELD_OUT)
    starts = [own for own in summary.of(arm.organism) if own.change("gap").start.mean is not None]
    start = max(starts, key=lambda own: len(own.runs), default=arm)
    afr, gap = (start.change(name).start.mean for name in ("afr", "gap"))
    silent = afr is not None and gap is not None and afr < FAKES_NOT and gap >= GAP_OPEN
    rl = arm.runs[0].config.get("rl") or {}
    episodes = arm.runs[0].steps * int(rl.get("prompts_per_step") or 0) * int(rl.get("group_size") or 0)
    took = [seconds for run in arm.runs if (seconds := _seconds(run)) is not None]
    extra = sum(float(row.get("asked") or 0) for run in arm.runs for row in run.training) / len(arm.runs)
    return ResultRow(arm, figures, silent, episodes, extra, tuple(took))


def _held_out(study: Study, run: Run) -> list[str]:
    """The monitors of scratchpads that the run was not trained against."""
    cards = study.monitors_of(run.organism)
    return [c.name for c in cards if c.view in ("scratchpad", "both") and c.name not in (*run.listens_to, "oracle")]


def _with_recall(tally: Tally, monitors: Sequence[str]) -> Tally:
    """The sums with those of the held-out monitors' recall, all monitors together."""
    names = [name for monitor in monitors if (name := f"recall_{monitor}") in tally.top]
    nothing = np.zeros(len(tally.pairs))
    top, bottom = (sum((side[name] for name in names), start=nothing) for side in (tally.top, tally.bottom))
    return replace(tally, top={**tally.top, HELD_OUT: top}, bottom={**tally.bottom, HELD_OUT: bottom})


def _seconds(run: Run) -> float | None:
    took = [row["seconds_total"] for row in run.training if isinstance(row.get("seconds_total"), int | float)]
    return float(sum(took)) if took else None
