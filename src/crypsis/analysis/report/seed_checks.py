"""What seeds say of each arm of a study: differences from the baseline, corrected, and two modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypsis.analysis.statistics.dip import dip_test
from crypsis.analysis.statistics.seed_tests import ALPHA, DIP_RUNS, holm
from crypsis.analysis.summary import COMPARED, ArmSummary, Summary

MODES_OF = ("afr", "gap")
"""Metrics whose seeds are asked for two modes."""
FEWEST = 4
"""Fewer values cannot show two modes."""


@dataclass(frozen=True, slots=True)
class Paired:
    """An arm against the baseline on one metric, seed by seed.

    Attributes:
        difference: Mean over seeds.
        p: Two-sided: one minus the level at which the interval would end at 0; None with fewer than three seeds.
        p_holm: After Holm's correction over the arms and metrics of the organism.
        seeds: That both have.
    """

    organism: str
    arm: str
    metric: str
    difference: float
    p: float | None
    p_holm: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Modes:
    """Whether the seeds of an arm fall into two clouds at the end.

    Attributes:
        values: The metric of each seed.
        dip: Hartigan's dip; None for fewer than ``FEWEST`` seeds.
        p: The p value of one mode; None with ``dip``.
    """

    organism: str
    arm: str
    metric: str
    values: tuple[float, ...]
    dip: float | None
    p: float | None

    @property
    def flagged(self) -> bool:
        """Whether one mode is refused."""
        return self.p is not None and self.p <= ALPHA

    @property
    def said(self) -> str:
        """The finding in words; a test that finds nothing in few seeds has shown nothing."""
        if self.p is None:
            return f"too few seeds to ask ({len(self.values)} of {FEWEST})"
        if self.flagged:
            return "two modes"
        return (
            "one mode"
            if len(self.values) >= DIP_RUNS
            else f"no sign of two (fewer than {DIP_RUNS} seeds seldom show it)"
        )


def paired_tests(summary: Summary) -> list[Paired]:
    """Every arm against its organism's baseline on every metric of ``COMPARED``."""
    return [test for organism in summary.organisms for test in _paired(summary.of(organism))]


def modes(summary: Summary) -> list[Modes]:
    """The dip test of every arm's seeds at the end."""
    return [_modes(arm, metric) for arm in summary.arms for metric in MODES_OF if arm.change(metric).end.by_seed]


def _paired(arms: Sequence[ArmSummary]) -> list[Paired]:
    found = []
    for arm in arms:
        for metric in COMPARED:
            estimate = arm.versus_baseline.get(metric)
            if estimate is not None and estimate.mean is not None:
                found.append((arm, metric, estimate.mean, estimate.p, len(estimate.by_seed)))
    known = [place for place, (_, _, _, p, _) in enumerate(found) if p is not None]
    corrected = dict(zip(known, holm([found[place][3] or 0.0 for place in known]), strict=True))
    return [
        Paired(arm.organism, arm.arm, metric, mean, p, corrected.get(place), seeds)
        for place, (arm, metric, mean, p, seeds) in enumerate(found)
    ]


def _modes(arm: ArmSummary, metric: str) -> Modes:
    values = tuple(value for _, value in arm.change(metric).end.by_seed)
    dip, p = dip_test(values) if len(values) >= FEWEST else (None, None)
    return Modes(arm.organism, arm.arm, metric, values, dip, p)
