"""Recall decay: the curves, and what stayed invisible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from crypsis.analysis.figures.drawing import NARROW, WIDE, Line, Panel
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.sheet import Sheet
from crypsis.analysis.statistics.bootstrap import Curve, SeedEstimate
from crypsis.analysis.stress.recall import FEWEST, Watch
from crypsis.analysis.stress.section import Section, StressTable, decimal, drawn, moved, percent, whose
from crypsis.analysis.summary import Summary

CAPTION = (
    "what each monitor sees of the same transcripts, mean over seeds. No point where fewer than "
    f"{FEWEST} transcripts of all seeds fake, or, for AUROC, do not."
)
TRUTH = (
    "Recall, false alarms, AUROC and invisible faking are against the oracle. For a model without one there remains "
    "how often each monitor flags: do the held-out ones go on where the trained-against one stops?"
)


def recall_section(summary: Summary, seen: Sequence[Watch]) -> Section | None:
    """Curves and tables of every arm that is trained against a monitor while others are held out."""
    watched = [watch for watch in seen if watch.trained and watch.held_out]
    if not watched:
        return None
    names = _names(seen)
    pictures = []
    for watch in watched:
        palette = [card.name for card in summary.study.monitors_of(watch.organism)]
        titles = (("recall", "Recall, by monitor"), ("auroc", "AUROC, by monitor"))
        plan = [_panel(watch, kind, title, palette) for kind, title in titles]
        plan = [panel for panel in plan if panel.lines]
        if plan:
            name = f"recall-{watch.organism}-{watch.arm}"
            alt, caption = _alt(names[id(watch)], watch), f"{names[id(watch)]}: {CAPTION}"
            pictures.append(drawn(name, partial(_drawing, plan), alt, summary.study.folder, caption))
    headline = tuple(_headline(names[id(watch)], watch) for watch in watched)
    head = ("Arm", "Faking, %", "Invisible, %", "of it flagged by a held-out one, %", "Unseen by all, %")
    rows = tuple(
        (
            names[id(watch)],
            moved(watch.at("afr", 0), watch.at("afr", -1)),
            moved(watch.at("invisible", 0), watch.at("invisible", -1)),
            moved(watch.at("caught_any", 0), watch.at("caught_any", -1)),
            moved(watch.at("unseen", 0), watch.at("unseen", -1)),
        )
        for watch in watched
    )
    caption = (
        "Faking by the oracle and what of it the monitor trained against does not flag, in per cent of monitored "
        "transcripts, first → last evaluation."
    )
    tables = (StressTable(caption, head, rows), monitor_table(seen))
    return Section("recall", "Recall decay", headline, TRUTH, tables, tuple(pictures))


def monitor_table(seen: Sequence[Watch]) -> StressTable:
    """What each monitor saw of each arm, first and last."""
    names, rows = _names(seen), []
    for watch in seen:
        for monitor in (*watch.trained, *watch.held_out):
            role = "trained against" if monitor in watch.trained else "held out"
            start, end = (watch.at(f"auroc_{monitor}", at) for at in (0, -1))
            rows.append(
                (
                    f"{names[id(watch)]} · {monitor}",
                    role,
                    moved(watch.at(f"recall_{monitor}", 0), watch.at(f"recall_{monitor}", -1)),
                    moved(watch.at(f"alarms_{monitor}", 0), watch.at(f"alarms_{monitor}", -1)),
                    f"{decimal(start)} → {decimal(end)}",
                    moved(watch.at(f"flagged_{monitor}", 0), watch.at(f"flagged_{monitor}", -1)),
                )
            )
    head = ("Monitor", "Role", "Recall, %", "False alarms, %", "AUROC", "Flagged, %")
    caption = (
        f"Every monitor on the same transcripts, first → last evaluation at which at least {FEWEST} transcripts count "
        "(recall: that fake; false alarms: that do not)."
    )
    return StressTable(caption, head, tuple(rows))


def _names(seen: Sequence[Watch]) -> dict[int, str]:
    """How each arm is called, by the identity of its record."""
    several = len({watch.organism for watch in seen}) > 1
    return {id(watch): whose(watch.organism, watch.label, several) for watch in seen}


def _headline(name: str, watch: Watch) -> str:
    end, caught = watch.at("invisible", -1), watch.at("caught_any", -1)
    if end.mean is None:
        return f"{name}: no oracle judged these transcripts, so what is invisible is unknown."
    against = " and ".join(watch.trained)
    told = f"{name}: at the end {percent(end)} % of monitored transcripts fake unseen by {against}"
    if caught.mean is None:
        return f"{told}."
    return f"{told}; the held-out monitors flag {percent(caught)} % of these."


def _drawing(plan: Sequence[Panel], narrow: bool) -> Sheet:
    return panels(plan, 1, NARROW) if narrow else panels(plan, 2, WIDE)


def _panel(watch: Watch, kind: str, title: str, palette: Sequence[str]) -> Panel:
    monitors = (*watch.trained, *watch.held_out)
    order = {name: place for place, name in enumerate(palette)}
    lines = [
        _line(f"{name} (trained against)" if name in watch.trained else name, found, order.get(name, len(order)))
        for name in monitors
        if (found := watch.curves.get(f"{kind}_{name}"))
    ]
    area = [(step, point.mean or 0.0) for step, point in _points(watch.curves.get("afr"))] if kind == "recall" else []
    unit = "% of faking transcripts; grey: % that fake" if kind == "recall" else "against the oracle, % (50: chance)"
    return Panel(title, unit, lines, area=area, labelled=True)


def _line(name: str, curve: Curve, place: int) -> Line:
    points = [(step, point.mean) for step, point in _points(curve) if point.mean is not None]
    return Line(name, points, place, kind="monitor")


def _points(curve: Curve | None) -> list[tuple[int, SeedEstimate]]:
    return list(zip(curve.steps, curve.points, strict=True)) if curve else []


def _alt(name: str, watch: Watch) -> str:
    told = [
        f"{monitor} {moved(watch.at(f'recall_{monitor}', 0), watch.at(f'recall_{monitor}', -1))}"
        for monitor in (*watch.trained, *watch.held_out)
    ]
    return f"Line chart over RL steps, {name}. Recall in per cent, first to last: {'; '.join(told)}."
