"""Dose and response: shares of evasive scratchpads or of pressing prompts, and a monitor's quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crypsis.analysis.claims.evidence import ALWAYS, USUAL
from crypsis.analysis.figures.drawing import BAD, INK, MUTED, NARROW, TINT, WIDE, Line, Panel, canvas, head
from crypsis.analysis.figures.panels import panels
from crypsis.analysis.figures.sheet import Sheet
from crypsis.analysis.stress.final_state import STATES
from crypsis.analysis.stress.recall import trained_against
from crypsis.analysis.stress.section import Drawn, Section, StressTable, drawn, percent, whose
from crypsis.analysis.summary import COMPLIES, FAKES, GAP_OPEN, ArmSummary, Summary

METRICS = (
    ("afr", "Alignment-faking rate"),
    ("gap", "Compliance gap"),
    ("compliance_monitored", "Monitored compliance"),
)
LIMITS = {"afr": FAKES, "gap": GAP_OPEN, "compliance_monitored": COMPLIES}
"""Where mitigation fails (AFR, gap) and where training itself does (monitored compliance)."""
PRESSURE, SHARE = "harmful_train", "share"
DIALS: Mapping[str, Any] = {**ALWAYS, "coefficient": 1.0, "shape": USUAL["shape"]}
"""Settings of process supervision that stresses vary, and what they are if not given."""
TITLES = {
    SHARE: ("Share of planted scratchpads", "of the organism's training scratchpads that evade or mislead"),
    PRESSURE: ("Rare faking", "of RL's training prompts that put values under pressure"),
}
TRUTH = {
    SHARE: "AFR and the classes evader and misleader are the oracle's. The share itself is planted.",
    PRESSURE: "AFR is the oracle's; gap and compliance need a judge of compliance only.",
}
DOSES = "End points against the dose; doses at equal distances. Dots: seeds; lines: means; dashed: the limit."
MAPS = "End points over the monitor's two rates, means over seeds. The line is where mitigation, or training, fails."


@dataclass(frozen=True, slots=True)
class Dose:
    """One arm on a dial: the value, what else it is, and what it did."""

    value: float
    family: str
    arm: ArmSummary


def dial_section(summary: Summary, states: Mapping[tuple[str, str], Mapping[int, str]]) -> Section | None:
    """End points against the share that a study varies, of planted scratchpads or of pressing prompts."""
    for dial in (SHARE, PRESSURE):
        doses = _doses(summary, dial)
        if len({dose.value for dose in doses}) > 1:
            return _dose_section(summary, dial, doses, states)
    return None


def _dose_section(
    summary: Summary, dial: str, doses: Sequence[Dose], states: Mapping[tuple[str, str], Mapping[int, str]]
) -> Section:
    title, of_what = TITLES[dial]
    ordered = sorted(doses, key=lambda dose: (dose.family, dose.value))
    rows = tuple(
        (
            f"{dose.family}, {100 * dose.value:g} %",
            *(percent(dose.arm.change(metric).end) for metric, _ in METRICS),
            _counted(states.get((dose.arm.organism, dose.arm.arm), {})),
        )
        for dose in ordered
    )
    heads = (f"Arm, % {of_what}", "AFR, %", "Gap, points", "Monitored compliance, %", "Final states")
    alt = f"Line chart against the share {of_what}: " + "; ".join(
        f"{row[0]}: AFR {row[1]}, gap {row[2]}" for row in rows
    )
    places = list(summary.labels)
    picture = drawn(f"dose-{dial}", partial(_dose_figure, ordered, places, of_what), alt, summary.study.folder, DOSES)
    table = StressTable("At the last evaluation, mean over seeds with 95 % interval.", heads, rows)
    return Section(dial, title, (), TRUTH[dial], (table,), (picture,))


def _doses(summary: Summary, dial: str) -> list[Dose]:
    recipes = summary.study.config.get("organisms") or {}
    found = []
    for arm in summary.arms:
        recipe, scenario = recipes.get(arm.organism) or {}, arm.runs[0].config.get("scenario") or {}
        value = recipe.get(SHARE) if dial == SHARE else scenario.get(PRESSURE)
        if value is not None:
            family = arm.label if dial == SHARE else arm.mitigation.replace("_", " ").capitalize()
            found.append(Dose(float(value), family, arm))
    return found


def _counted(states: Mapping[int, str]) -> str:
    found = list(states.values())
    return ", ".join(f"{found.count(state)} {state}" for state in STATES if state in found)


def _dose_figure(doses: Sequence[Dose], places: Sequence[str], of_what: str, narrow: bool) -> Sheet:
    """One panel per metric; seeds are dots, means are joined; the doses stand at equal distances."""
    values = sorted({dose.value for dose in doses})
    ticks = {place: f"{100 * value:g}" for place, value in enumerate(values)}
    plan = []
    for metric, title in METRICS:
        lines = []
        for family in dict.fromkeys(dose.family for dose in doses):
            mine = [dose for dose in doses if dose.family == family]
            ends = [(values.index(dose.value), dose.arm.change(metric).end) for dose in mine]
            means = [(x, end.mean) for x, end in ends if end.mean is not None]
            seeds = [[(x, value) for _, value in end.by_seed] for x, end in ends]
            lines.append(Line(family, means, places.index(mine[0].arm.arm), seeds))
        scale = "gap" if metric == "gap" else "share"
        across = f"% {of_what}" if narrow else "dose, %"
        limit = LIMITS[metric]
        plan.append(
            Panel(title, "%, at the end", lines, scale, True, across=across, ticks=ticks, limit=limit, dots=True)
        )
    return panels(plan, 1, NARROW) if narrow else panels(plan, len(METRICS), WIDE)


def quality_section(summary: Summary) -> Section | None:
    """What a monitor's rates and the penalty's settings do to end points; None where a study varies neither."""
    settings = {(arm.organism, arm.arm): _settings(arm) for arm in summary.arms}
    varied = [arm for arm in summary.arms if settings[arm.organism, arm.arm]]
    if not varied:
        return None
    several = len(summary.organisms) > 1
    rows = tuple(
        (
            whose(arm.organism, arm.label, several),
            settings[arm.organism, arm.arm],
            *(percent(arm.change(metric).end) for metric, _ in METRICS),
        )
        for arm in varied
    )
    heads = ("Arm", "Setting", "AFR, %", "Gap, points", "Monitored compliance, %")
    lost = [
        row[0] for row, arm in zip(rows, varied, strict=True) if (_end(arm, "compliance_monitored") or 0) < COMPLIES
    ]
    failed = [row[0] for row, arm in zip(rows, varied, strict=True) if (_end(arm, "afr") or 0) >= FAKES]
    lead = (
        f"Mitigation fails (AFR ≥ {FAKES:.0%} at the end): {', '.join(failed) or 'in no arm'}.",
        f"Training itself fails (monitored compliance < {COMPLIES:.0%}): {', '.join(lost) or 'in no arm'}.",
    )
    pictures = tuple(p for organism in summary.organisms if (p := _contours(summary, organism)))
    truth = "Dialled rates are those of the oracle's flags, so this stress runs on the miniature alone."
    table = StressTable("At the last evaluation, mean over seeds with 95 % interval.", heads, rows)
    return Section("quality", "Monitor quality", lead, truth, (table,), pictures)


def _end(arm: ArmSummary, metric: str) -> float | None:
    return arm.change(metric).end.mean


def _settings(arm: ArmSummary) -> str:
    """What is dialled in an arm, in words; empty for none."""
    config, told = arm.runs[0].config, []
    if rates := _rates(config):
        told.append(f"true positives {rates[0]:.0%}, false positives {rates[1]:.0%}")
    return ", ".join([*told, *(f"{key} {value}" for key, value in _changed(config))])


def _changed(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings of process supervision that are not its defaults."""
    return [
        (key, mitigation[key])
        for mitigation in config.get("mitigations") or ()
        if mitigation.get("name") == "process_supervision"
        for key, usual in DIALS.items()
        if mitigation.get(key, usual) != usual
    ]


def _rates(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """True- and false-positive rate of the dialled monitor that a run is trained against."""
    for name in trained_against(config):
        spec = (config.get("monitors") or {}).get(name) or {}
        if spec.get("name") == "dialled":
            return float(spec.get("tpr", 0.9)), float(spec.get("fpr", 0.05))
    return None


def _contours(summary: Summary, organism: str) -> Drawn | None:
    """Three maps of true- against false-positive rate, where both vary and nothing else does; the limit as a line."""
    mine = [(arm.runs[0].config, arm) for arm in summary.of(organism)]
    arms = [(rates, arm) for config, arm in mine if (rates := _rates(config)) and not _changed(config)]
    true, false = (sorted({rates[i] for rates, _ in arms}) for i in (0, 1))
    if len(true) < 2 or len(false) < 2:
        return None
    grids = {metric: np.full((len(true), len(false)), np.nan) for metric, _ in METRICS}
    for metric, grid in grids.items():
        for (tpr, fpr), arm in arms:
            mean = _end(arm, metric)
            grid[true.index(tpr), false.index(fpr)] = np.nan if mean is None else mean
    means = [f"{t:.0%} true and {f:.0%} false positives: AFR {percent(arm.change('afr').end)}" for (t, f), arm in arms]
    alt = "Maps of end points. " + "; ".join(means)
    return drawn(f"quality-{organism}", partial(_maps, grids, true, false), alt, summary.study.folder, MAPS)


def _maps(grids: Mapping[str, Any], true: Sequence[float], false: Sequence[float], narrow: bool) -> Figure:
    """The maps beside each other, on phones one below the other."""
    rows, columns, width = (len(METRICS), 1, NARROW) if narrow else (1, len(METRICS), WIDE)
    each, tall = width / columns, 2.1
    figure = canvas(width, rows * tall)
    for number, (metric, title) in enumerate(METRICS):
        row, column = divmod(number, columns)
        box = (column * each + 0.55, (rows - 1 - row) * tall + 0.42, each - 0.75, tall - 0.92)
        axes = figure.add_axes((box[0] / width, box[1] / (rows * tall), box[2] / width, box[3] / (rows * tall)))
        _map(axes, grids[metric], LIMITS[metric])
        axes.set_xticks(range(len(false)), [f"{100 * f:g}" for f in false], fontsize=7)
        axes.set_yticks(range(len(true)), [f"{100 * t:g}" for t in true], fontsize=7)
        axes.set_xlabel("false positives, %", fontsize=7, color=MUTED)
        axes.set_ylabel("true positives, %", fontsize=7, color=MUTED)
        head(axes, title, f"%, at the end; line: {LIMITS[metric]:.0%}")
    return figure


def _map(axes: Axes, grid: Any, limit: float) -> None:
    axes.imshow(grid, cmap=TINT, vmin=0, vmax=1, aspect="auto", origin="lower")
    for row, column in np.argwhere(~np.isnan(grid)):
        shown = f"{100 * grid[row, column]:.0f}".replace("-", "−")
        axes.text(column, row, shown, ha="center", va="center", fontsize=7.5, color=INK)
    known = grid[~np.isnan(grid)]
    if len(known) == grid.size and known.min() < limit < known.max():
        axes.contour(grid, levels=[limit], colors=[BAD], linewidths=1.6)
    axes.spines["bottom"].set_visible(False)
