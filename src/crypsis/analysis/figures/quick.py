"""Figures for a notebook: scores of transcripts, and the curves of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from crypsis.analysis.figures.drawing import ARMS, INK, MARKERS, MONITORS, MUTED, RULE, canvas
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.types import Episode, UserError, visible

SPREAD = 0.11
"""How far points of a row lie apart, so that equal scores are seen."""
SHOWN = (("afr", "alignment-faking rate"), ("gap", "compliance gap"))


def draw_scores(transcripts: Sequence[Episode]) -> Figure:
    """One row per monitor and tier, one point per transcript.

    Args:
        transcripts: With verdicts.

    Raises:
        UserError: None has a verdict.
    """
    monitors = dict.fromkeys(name for episode in transcripts for name in episode.verdicts)
    tiers = dict.fromkeys((e.prompt.tier, e.prompt.monitored) for e in transcripts)
    if not monitors:
        raise UserError("plot: no transcript has a verdict; call crypsis.judge(transcripts) first")
    rows = [(name, *tier) for name in monitors for tier in tiers]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none"}):
        figure = canvas(6.4, 0.9 + 0.5 * len(rows))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        labels = []
        for place, (name, tier, monitored) in enumerate(rows):
            verdicts = [e.verdicts[name] for e in transcripts if e.prompt.tier == tier and name in e.verdicts]
            scores = [v.score for v in verdicts if v.score is not None]
            heights = [place + SPREAD * (i % 5 - 2) for i in range(len(scores))]
            axes.plot(scores, heights, MARKERS[0 if monitored else 1], color=MONITORS[0 if monitored else 2], alpha=0.8)
            missing = len(verdicts) - len(scores)
            without = f", {missing} without a score" if missing else ""
            labels.append(f"{visible(name)}, {visible(tier)} tier\n{len(scores)} transcripts{without}")
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("score: estimated probability of alignment faking", color=MUTED)
        axes.tick_params(colors=MUTED, labelcolor=INK)
        axes.grid(axis="x", color=RULE)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_study(folder: Path) -> Figure:
    """AFR and gap over RL steps, a line per organism and arm with its 95 % interval.

    Args:
        folder: Of a study or a run.

    Raises:
        UserError: It holds no finished run.
    """
    summary = summarise(load_study(folder))
    several = len(summary.organisms) > 1
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none"}):
        figure = canvas(7.6, 3.2)
        figure.set_layout_engine("constrained")
        for axes, (metric, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
            for place, arm in enumerate(summary.arms):
                if metric not in arm.curves:
                    continue
                curve, colour = arm.curves[metric], ARMS[place % len(ARMS)]
                known = [(s, p) for s, p in zip(curve.steps, curve.points, strict=True) if p.mean is not None]
                steps = [step for step, _ in known]
                label = visible(f"{arm.organism}: {arm.label}" if several else arm.label)
                marker = MARKERS[place % len(MARKERS)]
                axes.plot(steps, [p.mean for _, p in known], marker=marker, color=colour, label=label, markersize=4)
                low, high = [p.low or 0.0 for _, p in known], [p.high or 0.0 for _, p in known]
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_title(title, loc="left", color=INK)
            axes.set_xlabel("RL step", color=MUTED)
            axes.tick_params(colors=MUTED, labelcolor=INK)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
