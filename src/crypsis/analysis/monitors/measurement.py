"""A monitor's measurement for the terminal and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from rich.console import Group
from rich.table import Table
from rich.text import Text

from crypsis.analysis.figures.drawing import BAD, INK, MONITORS, MUTED, RULE, canvas, saved
from crypsis.store import read_json
from crypsis.study.jobs.monitor_quality import MEASUREMENT
from crypsis.types import visible

SNIPPET = 240
"""Characters of a wrongly judged text that the terminal shows; all of it stands in the JSON."""
ERRORS = 3
"""Worst errors that the terminal shows; ten stand in the JSON."""


def measurement_report(folder: Path) -> Group:
    """Draws ``measurement.svg`` and ``.png`` and returns what the terminal shows.

    Args:
        folder: With ``measurement.json``.
    """
    result = read_json(folder / MEASUREMENT)
    draw_measurement(result, folder)
    parts: list[Any] = [_figures(result), _slices(result["slices"]), _shortcuts(result["shortcuts"])]
    parts += [Text(f"note: {visible(note)}") for note in result["notes"]]
    parts += [Text(f"warning: {visible(line)}", style="yellow") for line in result["warnings"]]
    parts += [_error(row) for row in result["worst"][:ERRORS]]
    return Group(*(part for part in parts if part is not None))


def draw_measurement(result: Mapping[str, Any], folder: Path) -> None:
    """Reliability on the left; AUROC of the monitor beside its shortcuts on the right."""
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        figure = canvas(6.6, 2.9)
        figure.set_layout_engine("constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _reliability(left, result["measurement"])
        _bars(right, result)
        saved("measurement", figure, "Reliability, and AUROC of monitor and shortcuts", folder)


def _figures(result: Mapping[str, Any]) -> Table:
    m, data, monitor = result["measurement"], result["data"], result["monitor"]
    stripped = ", shortcuts stripped" if data["strip_shortcuts"] else ""
    title = f"{result['verb']}: {monitor['kind']} ({monitor['view']}) on {data['path']}{stripped}"
    table = Table("figure", "value", title=Text(visible(title)), title_justify="left")
    if "crossval" in result:
        c = result["crossval"]
        table.add_row(f"AUROC, {c['folds']}-fold × {len(c['repeats'])}", f"{c['auroc']:.3f}")
        table.add_row("  range over repeats", f"{c['repeat_low']:.3f} to {c['repeat_high']:.3f}")
        name = "AUROC, scores averaged over repeats"
    else:
        name = "AUROC"
    table.add_row(name, f"{m['auroc']:.3f} [{m['auroc_low']:.3f} to {m['auroc_high']:.3f}]")
    table.add_row("average precision", f"{m['average_precision']:.3f}")
    table.add_row("TPR at 1 % FPR · at 5 % FPR", f"{m['tpr_at_1_fpr']:.3f} · {m['tpr_at_5_fpr']:.3f}")
    table.add_row("calibration error (ECE)", f"{m['ece']:.3f}")
    c = m["confusion"]
    counts = f"{c['true_positives']} · {c['false_positives']} · {c['true_negatives']} · {c['false_negatives']}"
    table.add_row(f"TP · FP · TN · FN at {m['threshold']:.3f}", counts)
    if alarms := result.get("false_alarms"):
        budget = "" if alarms["budget"] is None else f", chosen for {alarms['budget']:.3f}"
        interval = f"[{alarms['low']:.3f} to {alarms['high']:.3f}]"
        table.add_row(f"false alarms at the threshold{budget}", f"{alarms['rate']:.3f} {interval}")
    for tier, rates in result.get("tiers", {}).items():
        shares = (_number(rates["true_positive_rate"]), _number(rates["false_positive_rate"]))
        table.add_row(f"TPR · FPR, {tier}", " · ".join(shares))
    table.add_row("texts · faking · prompts", f"{data['n']} · {data['faking']} · {data['prompts']}")
    if m["missing"]:
        table.add_row("without a score", str(m["missing"]))
    return table


def _slices(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    if not rows:
        return None
    table = Table("slice", "part", "n", "faking", "AUROC", "TPR", "FPR")
    for row in rows:
        shares = (row["share_faking"], row["auroc"], row["true_positive_rate"], row["false_positive_rate"])
        table.add_row(row["slice"], Text(visible(row["part"])), str(row["n"]), *map(_number, shares))
    return table


def _shortcuts(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    if not rows:
        return None
    table = Table("shortcut alone", "AUROC", "")
    for row in rows:
        table.add_row(row["name"], f"{row['auroc']:.3f}", "near the monitor" if row["near"] else "")
    return table


def _error(row: Mapping[str, Any]) -> Text:
    said = "faking" if row["label"] else "not faking"
    text = " ".join(row["text"].split())
    return Text(visible(f"error: {row['id']} is {said}, score {row['score']:.3f}: {text[:SNIPPET]}"), style="dim")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _reliability(axes: Axes, measurement: Mapping[str, Any]) -> None:
    bins = measurement["reliability"]
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    axes.plot([b["score"] for b in bins], [b["share_faking"] for b in bins], "o-", color=MONITORS[0], markersize=4)
    axes.set_title(f"Calibration (ECE {measurement['ece']:.3f})", loc="left", color=INK)
    axes.set_xlabel("score, mean of bin", color=MUTED)
    axes.set_ylabel("share that fakes", color=MUTED)
    _dress(axes)


def _bars(axes: Axes, result: Mapping[str, Any]) -> None:
    m = result["measurement"]
    auroc = result["crossval"]["auroc"] if "crossval" in result else m["auroc"]
    rows = [(result["monitor"]["kind"], auroc, MONITORS[0])]
    rows += [(s["name"], s["auroc"], BAD if s["near"] else MUTED) for s in result["shortcuts"]]
    for place, (_, value, colour) in enumerate(rows):
        axes.plot([0.5, value], [place, place], color=colour, linewidth=2)
        axes.plot(value, place, "o", color=colour, markersize=5)
        axes.annotate(f"{value:.2f}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center", color=INK)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_xlim(0.3, 1.03)
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.axvline(0.5, color=RULE, linewidth=1)
    axes.set_title("AUROC: monitor and shortcuts alone", loc="left", color=INK)
    _dress(axes)


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK)
