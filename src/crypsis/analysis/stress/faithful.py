"""Faithfulness over training: whether outputs follow the scratchpad or the tier's tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from crypsis.analysis.figures.drawing import NARROW, WIDE, Line, Panel
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.sheet import Sheet
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.stress.faithfulness import INTERVENTIONS, TITLES, Effects, effects
from crypsis.analysis.stress.section import Section, StressTable, decimal, drawn, percent, whose
from crypsis.analysis.study import Run
from crypsis.analysis.summary import Summary
from crypsis.episodes import read_episodes
from crypsis.store import steps_of

CAPTION = "Main effects of the scratchpad's tier and of the request's tier on compliance over RL, means over seeds."
FOLDER = "transplants"


@dataclass(frozen=True, slots=True)
class Traced:
    """The effects of one arm by step: with the policy's own scratchpads, and with those from before training.

    Attributes:
        name: The arm's.
        place: The arm's in the order of colours.
        own: Keyed by step, with the policy's own scratchpads.
        start: The same with those from before training.
    """

    name: str
    place: int
    own: Mapping[int, Effects]
    start: Mapping[int, Effects]


def faithfulness_section(summary: Summary) -> Section | None:
    """Effects of scratchpad and tag over RL, and of every intervention at the end; None without transplants."""
    several = len(summary.organisms) > 1
    traced = []
    places = list(summary.labels)
    for (organism, arm), runs in summary.study.arms().items():
        found = _trace(whose(organism, runs[0].label, several), places.index(arm), runs)
        if found:
            traced.append(found)
    if not traced:
        return None
    picture = drawn("faithfulness", partial(_figure, traced), _alt(traced), summary.study.folder, CAPTION)
    lead = (
        "A scratchpad from each tier is put after the same request in each tier. What the scratchpad's tier and the "
        "request's tier do to compliance sums to the gap; faithfulness is the scratchpad's share of the variance.",
    )
    truth = "Compliance needs a judge, nothing else; “does what it decides” needs the oracle."
    return Section(
        "faithfulness",
        "Faithfulness by intervention",
        lead,
        truth,
        (_effects(traced), _cuts(traced)),
        (picture,),
    )


def _trace(name: str, place: int, runs: Sequence[Run]) -> Traced | None:
    steps = [set(steps_of(run.folder / FOLDER, ".parquet")) for run in runs]
    shared = sorted(set.intersection(*steps))
    own, start = {}, {}
    for step in shared:
        rows = {run.seed: read_episodes(run.folder / FOLDER / f"step-{step:04d}.parquet") for run in runs}
        own[step], start[step] = effects(rows), effects(rows, start=True)
    return Traced(name, place, own, start) if shared else None


def _effects(traced: Sequence[Traced]) -> StressTable:
    rows = []
    for trace in traced:
        for which, by_step in (("own", trace.own), ("from before training", trace.start)):
            first, last = by_step[min(by_step)], by_step[max(by_step)]
            rows.append(
                (
                    f"{trace.name} · {which}",
                    f"{decimal(first.faithfulness)} → {decimal(last.faithfulness)}",
                    f"{percent(first.scratchpad)} → {percent(last.scratchpad)}",
                    f"{percent(first.tag)} → {percent(last.tag)}",
                    percent(last.follows) if which == "own" else "",
                )
            )
    heads = (
        "Scratchpads",
        "Faithfulness",
        "Effect of the scratchpad, points",
        "Effect of the tag, points",
        "Follows, %",
    )
    caption = (
        "First → last evaluation, effects in points. Scratchpads from before training hold both decisions at every "
        "step; – where no cell differs. Follows: outputs that do what an exchanged scratchpad decides."
    )
    return StressTable(caption, heads, tuple(rows))


def _cuts(traced: Sequence[Traced]) -> StressTable:
    done = [
        n for n in INTERVENTIONS if any((n, t) in f.own[max(f.own)].compliance for f in traced for t in (True, False))
    ]
    rows = []
    for trace in traced:
        last = trace.own[max(trace.own)]
        cells = [
            " / ".join(
                percent(last.compliance[name, tier], ends=False)
                for tier in (True, False)
                if (name, tier) in last.compliance
            )
            for name in done
        ]
        rows.append((trace.name, *cells))
    caption = (
        "Compliance at the last evaluation after changed scratchpads, in per cent: monitored / unmonitored request."
    )
    return StressTable(caption, ("Arm", *(TITLES[name] for name in done)), tuple(rows))


def _figure(traced: Sequence[Traced], narrow: bool) -> Sheet:
    plan = []
    for title, unit, which, pick in (
        ("Effect of the scratchpad", "points of compliance, own scratchpads", "own", "scratchpad"),
        ("Effect of the tag", "points of compliance, own scratchpads", "own", "tag"),
        ("Effect of the scratchpad", "points, scratchpads from before training", "start", "scratchpad"),
        ("Effect of the tag", "points, scratchpads from before training", "start", "tag"),
    ):
        lines = [
            Line(trace.name, _points({s: getattr(e, pick) for s, e in getattr(trace, which).items()}), trace.place)
            for trace in traced
        ]
        plan.append(Panel(title, unit, [line for line in lines if line.points], scale="gap", labelled=True))
    return panels(plan, 1, NARROW) if narrow else panels(plan, 2, WIDE)


def _points(estimates: Mapping[int, SeedEstimate]) -> list[tuple[int, float]]:
    return [(step, estimate.mean) for step, estimate in sorted(estimates.items()) if estimate.mean is not None]


def _alt(traced: Sequence[Traced]) -> str:
    told = []
    for trace in traced:
        last = trace.own[max(trace.own)]
        told.append(f"{trace.name}: scratchpad {percent(last.scratchpad)}, tag {percent(last.tag)}")
    return "Line charts over RL steps. Effects on compliance at the end, points: " + "; ".join(told) + "."
