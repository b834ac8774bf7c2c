"""The figures of a study, as SVG and PNG: what is in which panel."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from crypsis.analysis.figures.drawing import (
    DASHED,
    NARROW,
    SOLID,
    WIDE,
    Line,
    Panel,
    Picture,
    Points,
    saved,
)
from crypsis.analysis.figures.ends import ends_figure, seeds_figure
from crypsis.analysis.figures.links import transcripts_link
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.training_curves import field_points, parts_of, terms_of
from crypsis.analysis.naming import organism_name
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.summary import DRIFT, ArmSummary, Summary

OVERVIEW = ("afr", "gap", "compliance_monitored")
TITLES = {
    "afr": "Alignment-faking rate",
    "gap": "Compliance gap",
    "compliance_monitored": "Monitored compliance",
    "compliance_unmonitored": "Unmonitored compliance",
    "scratchpad_tokens": "Scratchpad length",
    "unparsed": "Unparsed",
    "format_ok": "Well formed",
}
"""Title of each curve."""
UNITS = {
    "afr": "% of monitored transcripts",
    "gap": "monitored − unmonitored, points",
    "compliance_monitored": "% of monitored replies",
    "compliance_unmonitored": "% of unmonitored replies",
    "scratchpad_tokens": "tokens, monitored tier",
    "unparsed": "% that the judge cannot read",
    "format_ok": "% of all transcripts",
}
"""Unit of each curve, shown under its title."""
SCALES = {"gap": "gap", "scratchpad_tokens": "tokens"}
KINDS = ("overview", "compliance", "terms", "shares", "monitors", "drift")
"""Figures of one organism; those of all are ``ends`` and ``seeds``."""


def display_label(arm: ArmSummary, arms: Sequence[ArmSummary]) -> str:
    """The arm's label, with its organism where the study has several."""
    return arm.label if len({a.organism for a in arms}) == 1 else f"{organism_name(arm.organism)}: {arm.label}"


def figure_name(kind: str, summary: Summary, organism: str = "") -> str:
    """File name of a figure without its ending: the kind, with the organism where the study has several."""
    if not organism or len(summary.organisms) == 1:
        return kind
    slugs = [re.sub(r"[^A-Za-z0-9_.-]+", "-", name) for name in summary.organisms]
    place = summary.organisms.index(organism)
    twin = f"-{place}" if slugs.count(slugs[place]) > 1 else ""
    return f"{kind}-{slugs[place]}{twin}"


def draw_all(summary: Summary) -> dict[str, Picture]:
    """Draws every figure of a study and writes it to ``figures/`` as SVG and PNG.

    Returns:
        By ``figure_name``; each also with ``-narrow``, drawn for phones and not written. A figure without anything to
        show is left out.
    """
    pictures: dict[str, Picture] = {}
    folder = summary.study.folder / "figures"
    for organism in summary.organisms:
        for kind in KINDS:
            plan = _plan(kind, summary, organism)
            if not any(line.points for panel in plan for line in panel.lines):
                continue
            name, alt = figure_name(kind, summary, organism), alt_text(plan)
            pictures[name] = saved(name, panels(plan, min(3, len(plan)), WIDE), alt, folder)
            pictures[f"{name}-narrow"] = saved(f"{name}-narrow", panels(plan, 1, NARROW), alt, None)
    for name, draw in (("ends", ends_figure), ("seeds", seeds_figure)):
        wide, narrow = draw(summary, False), draw(summary, True)
        if wide and narrow:
            pictures[name] = saved(name, *wide, folder)
            pictures[f"{name}-narrow"] = saved(f"{name}-narrow", *narrow, None)
    return pictures


def alt_text(plan: Sequence[Panel]) -> str:
    """What a figure shows, for those who do not see it: first and last value of each line."""
    told = []
    for panel in plan:
        scale = 1 if panel.scale in ("tokens", "free") else 100
        form = ".1f" if panel.scale == "free" else ".0f"
        parts = [
            f"{line.name} {scale * line.points[0][1]:{form}} to {scale * line.points[-1][1]:{form}}".replace(" -", " −")
            for line in panel.lines
            if line.points
        ]
        told.append(
            f"{' '.join(panel.title.split())} ({panel.unit}), first to last: {'; '.join(parts) or 'not measured'}."
        )
    return "Line chart over RL steps. " + " ".join(told)


def _plan(kind: str, summary: Summary, organism: str) -> list[Panel]:
    """The panels of one figure of one organism."""
    arms = summary.of(organism)
    places = {name: place for place, name in enumerate(summary.labels)}
    linked = not summary.study.imported
    if kind in ("overview", "drift"):
        return [_metric(arms, places, metric, linked) for metric in (OVERVIEW if kind == "overview" else DRIFT)]
    if kind == "compliance":
        return [_tiers(arm, places[arm.arm], linked) for arm in arms]
    if kind == "monitors":
        monitors = [card.name for card in summary.study.monitors_of(organism)]
        return [_monitors(arm, monitors, linked) for arm in arms if arm.by_scenario]
    unit, scale = ("mean of the step", "free") if kind == "terms" else ("% of the advantage's variance", "parts")
    return [
        Panel(name.replace("_", " ").capitalize(), unit, lines, scale, labelled=True)
        for name in terms_of(arms)
        if (lines := [line for arm in arms if (line := _field(arm, kind, name, places[arm.arm])).points])
    ]


def _metric(arms: Sequence[ArmSummary], places: dict[str, int], metric: str, linked: bool) -> Panel:
    """One metric of all arms; one colour per arm."""
    lines = [_curve(arm, metric, arm.label, places[arm.arm], linked) for arm in arms if metric in arm.curves]
    return Panel(TITLES[metric], UNITS[metric], lines, SCALES.get(metric, "share"), labelled=True)


def _curve(arm: ArmSummary, metric: str, name: str, place: int, linked: bool) -> Line:
    curve = arm.curves[metric]
    points = [(step, point.mean or 0.0) for step, point in zip(curve.steps, curve.points, strict=True)]
    band = [(point.low or 0.0, point.high or 0.0) for point in curve.points]
    links = [
        (transcripts_link(arm.organism, arm.arm, step), _over(f"{arm.label}, {name}", metric, step, point))
        for step, point in zip(curve.steps, curve.points, strict=True)
    ]
    return Line(name, points, place, list(curve.seeds.values()), band, links=links if linked else ())


def _over(name: str, metric: str, step: int, point: SeedEstimate) -> str:
    """What stands over a point: whose it is, its value with the interval, and its seeds."""
    scale, unit = (1, "") if metric == "scratchpad_tokens" else (100, " points" if metric == "gap" else " %")
    shown = [f"{scale * value:.0f}" for value in (point.mean, point.low, point.high) if value is not None]
    interval = f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else ""
    seeds = ", ".join(f"{scale * value:.0f}" for _, value in point.by_seed)
    first, _, second = name.partition(", ")
    who = first if first == second else name
    return f"{who}, step {step}: {shown[0]}{unit}{interval}; seeds: {seeds}. Opens transcripts.".replace("-", "−")


def _tiers(arm: ArmSummary, place: int, linked: bool) -> Panel:
    """Compliance of one arm in both tiers, the gap as the area between."""
    lines = []
    for tier, hollow, dashes in (("monitored", False, SOLID), ("unmonitored", True, DASHED)):
        if f"compliance_{tier}" in arm.curves:
            whole = _curve(arm, f"compliance_{tier}", tier, place, linked)
            lines.append(replace(whole, band=(), style=dashes, hollow=hollow))
    return Panel(_title(arm), "% complying", lines, fill=True, labelled=True)


def _monitors(arm: ArmSummary, monitors: Sequence[str], linked: bool) -> Panel:
    """Recall and false alarms of every monitor in one arm; the grey area is what there is to find."""
    judged = sorted({m.removeprefix("recall_") for m in arm.curves if m.startswith("recall_")})
    order = [name for name in monitors if name in judged] + [name for name in judged if name not in monitors]
    against = [name for run in arm.runs[:1] for name in run.listens_to]
    lines = []
    for place, name in enumerate(order):
        for metric, said, dashes in ((f"recall_{name}", "recall", SOLID), (f"fpr_{name}", "false alarms", DASHED)):
            whole = _curve(arm, metric, f"{name}: {said}", place, linked)
            lines.append(replace(whole, band=(), style=dashes, kind="monitor"))
    unit = f"trained against: {', '.join(against)}" if against else "all monitors held out"
    area: Points = [(s, p.mean or 0.0) for s, p in zip(arm.curves["afr"].steps, arm.curves["afr"].points, strict=True)]
    return Panel(_title(arm), unit, lines, area=area, labelled=True)


def _field(arm: ArmSummary, kind: str, name: str, place: int) -> Line:
    means, seeds = field_points(arm, f"{parts_of(kind)}{name}")
    return Line(arm.label, means, place, seeds)


def _title(arm: ArmSummary) -> str:
    return "\n".join(textwrap.wrap(arm.label, 28)[:2])
