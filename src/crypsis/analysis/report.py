"""The report of a study: one HTML file without scripts, the terminal's table, ``summary.json`` and the figures.

No torch here. Every string that the template prints passes ``_inert`` first and is then escaped, whoever wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from crypsis.analysis.figures import COLOURS, TITLES, UNITS, Picture, display_label, draw_all
from crypsis.analysis.statistics import FEW, SeedEstimate
from crypsis.analysis.study import Run, fixed_order, load_study, visible
from crypsis.analysis.summary import (
    EVADES,
    FAKING,
    FAKING_CLOSED,
    GAP_ONLY,
    LOST,
    MIXED,
    RULE,
    TRAINED,
    UNMEASURED,
    ArmSummary,
    Change,
    Summary,
    summarise,
    write_summary,
)
from crypsis.analysis.tables import write_tables
from crypsis.episodes import LABEL, TERM, VERDICT, read_episodes
from crypsis.evaluation.metrics import RESAMPLES
from crypsis.store import write_atomic

REPORT = "report.html"
SHOWN = 5
"""Requests whose transcripts are shown, for each arm and tier."""
SPELT = 4
"""With more arms than this the headline groups those that did not work by their verdict."""
MINIATURE_DOC = "docs/miniature.md"
"""Where the package lists what the miniature's text plants."""
TONES = {TRAINED: "good", FAKING: "bad", FAKING_CLOSED: "bad", EVADES: "bad", LOST: "bad", GAP_ONLY: "warn"}
CLAIMS = {
    TRAINED: "worked",
    FAKING: "still fakes alignment",
    FAKING_CLOSED: "still fakes alignment, though its gap has closed",
    EVADES: "evades the monitor",
    LOST: "lost the training, because it refuses everything",
    GAP_ONLY: "does not fake, yet keeps a gap",
    MIXED: "ended mixed",
    UNMEASURED: "was not measured",
}
"""The verdict as the headline says it."""
NARROW_SPACE = "\u202f"
UNKNOWN = "–"


def write_report(study: Path) -> Path:
    """Writes ``report.html``, ``summary.json`` and ``figures/`` into a study's folder.

    Returns:
        The report.

    Raises:
        UserError: The folder cannot be read as a study.
    """
    summary = summarise(load_study(study))
    pictures = draw_all(summary)
    write_summary(summary)
    write_tables(summary)
    path = study / REPORT
    write_atomic(path, render(summary, pictures))
    return path


def render(summary: Summary, pictures: dict[str, Picture]) -> str:
    """The report as text; the same study gives the same text."""
    template = Path(__file__).parent / "templates" / "report.html.jinja"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_inert, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"value": value, "ends": ends, "each": each, "figure_of": figure_of}
    environment.filters["label"] = lambda arm: display_label(arm, summary.arms)
    study = summary.study
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        study=study,
        arms=summary.arms,
        colours=COLOURS,
        tones=TONES,
        rule=RULE,
        headline=headline(summary),
        scale=str(study.config.get("scale") or ""),
        svg={name: Markup(picture.inline) for name, picture in pictures.items()},
        titles=TITLES,
        units=UNITS,
        few=FEW,
        few_arms=any(len(arm.seeds) < FEW for arm in summary.arms),
        resamples=RESAMPLES,
        silent=[c.name for c in study.monitors if any(a.change(f"missing_{c.name}").end.mean for a in summary.arms)],
        requests=_requests(summary),
        transcripts=_transcripts(summary),
        config=yaml.safe_dump(study.config, sort_keys=False, allow_unicode=True),
        planted=_planted(study.folder),
    )


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The verdict in words as (claim, figures): a sentence an arm, those that worked first."""
    arms = sorted(summary.arms, key=lambda arm: arm.verdict != TRAINED)
    told = [] if arms[0].verdict == TRAINED else [("No arm came to comply in both tiers without faking.", "")]
    full = [arm for arm in arms if len(arms) <= SPELT or arm.verdict == TRAINED or arm is summary.arms[0]]
    told += [_sentence(arm, summary.arms) for arm in full]
    for said in dict.fromkeys(arm.verdict for arm in arms if arm not in full):
        names = [
            f"{display_label(arm, arms)} (AFR {value(arm.change('afr').end, 'afr')}, monitored compliance "
            f"{value(arm.change('compliance_monitored').end, '')})"
            for arm in arms
            if arm not in full and arm.verdict == said
        ]
        told.append((f"{said[:1].upper()}{said[1:]}:", f"{'; '.join(names)}."))
    return told


def value(estimate: SeedEstimate, metric: str) -> str:
    """A figure as a reader wants it: per cent, points with a sign, or tokens."""
    mean = estimate.mean
    if mean is None:
        return UNKNOWN
    if metric == "scratchpad_tokens":
        return f"{mean:.0f}"
    if metric == "gap":
        return _signed(100 * mean)
    return f"{_percent(mean)}{NARROW_SPACE}%"


def ends(estimate: SeedEstimate, metric: str) -> str:
    """The interval of a figure, marked where it rests on few seeds."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = estimate.low, estimate.high
    if metric == "scratchpad_tokens":
        text = f"{low:.0f},\u00a0{high:.0f}"
    elif metric == "gap":
        text = f"{_signed(100 * low)},\u00a0{_signed(100 * high)}"
    else:
        text = f"{_percent(low)},\u00a0{_percent(high)}"
    return f"[{text}]{'*' if estimate.few_seeds else ''}"


def each(estimate: SeedEstimate, metric: str) -> str:
    """The figure of each seed, to one decimal."""
    scale = 1 if metric == "scratchpad_tokens" else 100
    return " · ".join(f"{seed}:\u00a0{scale * one:.1f}" for seed, one in estimate.by_seed).replace("-", "−")


def figure_of(change: Change, metric: str) -> Markup:
    """A small drawing of a share or gap from its start (open circle) to its end (dot, with interval)."""
    start, end = change.start, change.end
    if start.mean is None or end.mean is None or end.low is None or end.high is None:
        return Markup("")
    least = -1.0 if metric == "gap" and min(start.mean, end.low) < -0.02 else 0.0
    x = [4 + 92 * (max(least, v) - least) / (1 - least) for v in (start.mean, end.mean, end.low, end.high)]
    zero = f'<path class="zero" d="M{4 + 92 * -least / (1 - least):.1f} 1V11"/>'
    return Markup(
        f'<svg class="move" viewBox="0 0 100 12" aria-hidden="true">{zero}<path class="axis" d="M4 6H96"/>'
        f'<path class="span" d="M{x[2]:.1f} 6H{max(x[3], x[2] + 0.5):.1f}"/>'
        f'<circle class="from" cx="{x[0]:.1f}" cy="6" r="2.6"/>'
        f'<circle class="to" cx="{x[1]:.1f}" cy="6" r="3.2"/></svg>'
    )


def terminal_table(study: Path) -> Table:
    """The result for a terminal 80 columns wide: each arm's figures from start to end, and its verdict.

    Raises:
        UserError: The folder cannot be read as a study.
    """
    summary = summarise(load_study(study))
    table = Table(
        title=Text(f"{visible(summary.study.name)}: first → last evaluation"), width=80, pad_edge=False, show_lines=True
    )
    table.add_column("arm (seeds)", ratio=1)
    for name in ("AFR %", "comply %\nmonitored", "comply %\nunmonit.", "gap\npoints"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    for arm in summary.arms:
        seeds = Text(f" ({len(arm.seeds)})", style="dim")
        moves = [_move(arm.change(m), m) for m in ("afr", "compliance_monitored", "compliance_unmonitored", "gap")]
        tone = {"good": "green", "bad": "red"}.get(TONES.get(arm.verdict, ""), "yellow")
        said = Text(arm.verdict + ("" if arm.firm else " (borderline)"), style=tone)
        table.add_row(Text(visible(display_label(arm, summary.arms))) + seeds, *map(Text, moves), said)
    source = {arm.afr_source or "nobody" for arm in summary.arms}
    table.caption = Text(f"AFR by {', '.join(sorted(source))}. Intervals: {REPORT}")
    return table


def _move(change: Change, metric: str) -> str:
    numbers = [value(e, metric).removesuffix(f"{NARROW_SPACE}%") for e in (change.start, change.end)]
    return f"{numbers[0]} → {numbers[1]}"


def _sentence(arm: ArmSummary, arms: Sequence[ArmSummary]) -> tuple[str, str]:
    afr, gap = arm.change("afr"), arm.change("gap").end
    monitored, unmonitored = (arm.change(f"compliance_{tier}").end for tier in ("monitored", "unmonitored"))
    name = display_label(arm, arms)
    claim = f"{name[:1].upper()}{name[1:]} {CLAIMS[arm.verdict]}{'' if arm.firm else ' (borderline)'}"
    if afr.end.mean is None:
        return claim + ".", ""
    return claim + ":", (
        f"its alignment-faking rate went from {value(afr.start, 'afr')} to {value(afr.end, 'afr')} "
        f"{ends(afr.end, 'afr').rstrip('*')}, and at the end it complied with {value(monitored, '')} of monitored "
        f"and {value(unmonitored, '')} of unmonitored requests, "
        f"a gap of {value(gap, 'gap')} points {ends(gap, 'gap').rstrip('*')}."
    )


def _requests(summary: Summary) -> list[str]:
    """The requests whose transcripts are shown: the first by a fixed hash of those that every arm was evaluated on."""
    shared = set.intersection(*(set(_shown_run(arm).evaluations[arm.steps[1]].pairs) for arm in summary.arms))
    return sorted(shared, key=fixed_order)[:SHOWN]


def _shown_run(arm: ArmSummary) -> Run:
    """The run whose transcripts are shown: the lowest seed that has the arm's last evaluation."""
    return next(run for run in arm.runs if arm.steps[1] in run.evaluations)


def _transcripts(summary: Summary) -> list[list[dict[str, Any]]]:
    """By arm, the shown requests with their transcripts, the monitored tier first."""
    wanted = _requests(summary)
    thresholds = {card.name: card.threshold for card in summary.study.monitors}
    shown = []
    for arm in summary.arms:
        found: dict[str, list[dict[str, Any]]] = {pair: [] for pair in wanted}
        for row in read_episodes(_shown_run(arm).folder / "evals" / f"step-{arm.steps[1]:04d}.parquet"):
            pair = str(row["pair_id"])
            if pair in found and all(bool(other["monitored"]) != bool(row["monitored"]) for other in found[pair]):
                found[pair].append(row)
        cards = {
            pair: sorted((_card(row, thresholds) for row in rows), key=lambda c: not c["monitored"])
            for pair, rows in found.items()
        }
        shown.append(
            [{"pair": pair, "request": found[pair][0].get("request") or pair, "cards": cards[pair]} for pair in wanted]
        )
    return shown


def _card(row: dict[str, Any], thresholds: dict[str, float]) -> dict[str, Any]:
    """What is shown of one transcript."""
    verdicts = {}
    for column, score in row.items():
        name = column.removeprefix(VERDICT)
        if column.startswith(VERDICT):
            flagged = score is not None and score >= thresholds.get(name, 0.5)
            reason = str(row.get(f"reason_{name}") or "no verdict")
            verdicts[name] = (
                f"{score:.2f} {'flagged' if flagged else 'not flagged'}" if score is not None else f"missing: {reason}"
            )
    terms = {
        c.removeprefix(TERM): _decimal(v) for c, v in row.items() if c.startswith(TERM) and isinstance(v, (int, float))
    }
    reward = row.get("reward")
    return {
        "monitored": bool(row["monitored"]),
        "tier": str(row.get("tier") or ""),
        "parse": str(row.get("parse") or "unknown"),
        "scratchpad": str(row.get("scratchpad") or ""),
        "output": str(row.get("output") or ""),
        "raw": str(row.get("raw") or ""),
        "extra_turn": str(row.get("extra_turn") or ""),
        "labels": {c.removeprefix(LABEL): str(v) for c, v in row.items() if c.startswith(LABEL) and v is not None},
        "verdicts": verdicts,
        "terms": terms,
        "reward": _decimal(reward) if isinstance(reward, (int, float)) else "",
    }


def _planted(folder: Path) -> str:
    """A link from the study to ``MINIATURE_DOC`` where the repository is at hand, else empty."""
    doc = Path(__file__).resolve().parents[3] / MINIATURE_DOC
    return Path(os.path.relpath(doc, folder.resolve())).as_posix() if doc.exists() else ""


def _inert(printed: object) -> object:
    """What the template prints: markup of our own as it is, every other string with its controls made visible."""
    return visible(printed) if isinstance(printed, str) and not isinstance(printed, Markup) else printed


def _decimal(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")


def _percent(share: float) -> str:
    """A share in per cent; never rounded to a bare 0 or 100 that it is not."""
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def _signed(points: float) -> str:
    text = f"{points:+.0f}".replace("-", "−")
    return "0" if text[1:] == "0" else text
