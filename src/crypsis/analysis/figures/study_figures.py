"""The figures of a study, as SVG and PNG: what is in which panel."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from crypsis.analysis.figures.drawing import (
    DASHED,
    LABEL_WIDTH,
    NARROW,
    WIDE,
    Line,
    Panel,
    Picture,
    Points,
    saved,
    style,
)
from crypsis.analysis.figures.ends import ends_figure, seeds_figure
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.training_curves import field_points, parts_of, terms_of
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
    return arm.label if len({a.organism for a in arms}) == 1 else f"{arm.organism}: {arm.label}"


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
    with style():
        for organism in summary.organisms:
            for kind in KINDS:
                plan = _plan(kind, summary, organism)
                if not any(line.points for panel in plan for line in panel.lines):
                    continue
                name, alt = figure_name(kind, summary, organism), alt_text(plan)
                columns = 3 if kind in ("overview", "drift") else min(3, len(plan))
                legend = 0 if kind in ("overview", "drift", "compliance") else 4
                room = LABEL_WIDTH if kind in ("overview", "drift") else 0.12
                pictures[name] = saved(name, panels(plan, columns, WIDE, room, legend), alt, folder)
                plan = [_labelled(panel, kind) for panel in plan]
                narrow = panels(plan, 1, NARROW, room, min(legend, 2))
                pictures[f"{name}-narrow"] = saved(f"{name}-narrow", narrow, alt, folder)
        for name, draw in (("ends", ends_figure), ("seeds", seeds_figure)):
            for suffix, narrow_one in (("", False), ("-narrow", True)):
                drawn = draw(summary, narrow_one)
                if drawn:
                    pictures[name + suffix] = saved(name + suffix, drawn[0], drawn[1], folder)
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
    if kind in ("overview", "drift"):
        metrics = OVERVIEW if kind == "overview" else DRIFT
        return [_metric(arms, places, metric, labelled=metric == metrics[-1]) for metric in metrics]
    if kind == "compliance":
        return [_tiers(arm, places[arm.arm]) for arm in arms]
    if kind == "monitors":
        return [_monitors(arm) for arm in arms if arm.afr_source == "oracle"]
    names = terms_of(arms)
    unit, scale = ("mean of the step", "free") if kind == "terms" else ("% of the advantage's variance", "parts")
    return [
        Panel(_title(arm), unit, [_field(arm, kind, name, place) for place, name in enumerate(names)], scale)
        for arm in arms
    ]


def _metric(arms: Sequence[ArmSummary], places: dict[str, int], metric: str, labelled: bool) -> Panel:
    """One metric of all arms; one colour per arm."""
    lines = [_curve(arm, metric, arm.label, places[arm.arm]) for arm in arms if metric in arm.curves]
    return Panel(TITLES[metric], UNITS[metric], lines, SCALES.get(metric, "share"), labelled)


def _curve(arm: ArmSummary, metric: str, name: str, place: int) -> Line:
    curve = arm.curves[metric]
    points = [(step, point.mean or 0.0) for step, point in zip(curve.steps, curve.points, strict=True)]
    band = [(point.low or 0.0, point.high or 0.0) for point in curve.points]
    return Line(name, points, place, list(curve.seeds.values()), band)


def _tiers(arm: ArmSummary, place: int) -> Panel:
    """Compliance of one arm in both tiers, the gap as the area between."""
    lines = []
    for tier, mark, dashes in (("monitored", "o", "-"), ("unmonitored", "s", DASHED)):
        if f"compliance_{tier}" in arm.curves:
            whole = _curve(arm, f"compliance_{tier}", tier, place)
            lines.append(Line(tier, whole.points, place, whole.seeds, style=dashes, mark=mark))
    return Panel(_title(arm), "% complying: monitored solid, other dashed", lines, fill=True)


def _monitors(arm: ArmSummary) -> Panel:
    """Recall and false alarms of every monitor in one arm; the grey area is what there is to find."""
    names = sorted({m.removeprefix("recall_") for m in arm.curves if m.startswith("recall_")})
    against = [name for run in arm.runs[:1] for name in run.listens_to]
    lines = []
    for place, name in enumerate(names, start=1):
        for metric, said, dashes in ((f"recall_{name}", "recall", "-"), (f"fpr_{name}", "false alarms", DASHED)):
            whole = _curve(arm, metric, f"{name}: {said}", place)
            lines.append(Line(whole.name, whole.points, place, whole.seeds, style=dashes))
    unit = f"trained against: {', '.join(against)}" if against else "all monitors held out"
    area: Points = [(s, p.mean or 0.0) for s, p in zip(arm.curves["afr"].steps, arm.curves["afr"].points, strict=True)]
    return Panel(_title(arm), unit, lines, area=area)


def _field(arm: ArmSummary, kind: str, name: str, place: int) -> Line:
    means, seeds = field_points(arm, f"{parts_of(kind)}{name}")
    return Line(name.replace("_", " "), means, place, seeds)


def _title(arm: ArmSummary) -> str:
    return "\n".join(textwrap.wrap(arm.label, 28)[:2])


def _labelled(panel: Panel, kind: str) -> Panel:
    """The panel of a narrow figure: one below the other, each names its own lines."""
    if kind not in ("overview", "drift"):
        return panel
    return Panel(panel.title, panel.unit, panel.lines, panel.scale, labelled=True)
