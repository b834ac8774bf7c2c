"""The scorecard as a forest plot, and as a section of the report."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crypsis.analysis.claims.corrected_rates import corrected_rates
from crypsis.analysis.claims.scorecard import ClaimResult
from crypsis.analysis.claims.scorecard_output import (
    CLAIMS,
    IMPORTED,
    LEGEND,
    PLANTED,
    Entry,
    entries,
    figures,
    mark,
    needs,
    runs,
    tested,
    write_claims,
)
from crypsis.analysis.figures.drawing import (
    COLOURS,
    INK,
    MUTED,
    NARROW,
    PAGE,
    RULE,
    WIDE,
    Picture,
    canvas,
    saved,
    style,
)
from crypsis.analysis.study import Study
from crypsis.store import write_json
from crypsis.types import UserError, visible

CORRECTED = "afr_corrected.json"
SIGNS = {
    "reproduced": ("o", COLOURS[3]),
    "absent": ("s", COLOURS[0]),
    "reversed": ("v", COLOURS[1]),
    "undecided": ("D", COLOURS[2]),
}
"""Marker and colour of each verdict; an undecided one is hollow."""
TOP, FOOT, ROW, LINE, STRIP = 0.50, 0.34, 0.12, 0.118, 0.2
"""Inches: above and below the rows, between two rows, a line of text, and on phones the strip with the interval."""


def scorecard_figure(found: Sequence[Entry], folder: Path, narrow: bool = False) -> Picture | None:
    """Effect and interval of each claim that was run, verdicts by colour and shape; what each claims is shaded.

    Args:
        found: As ``scorecard_output.entries`` gives them.
        folder: Gets ``scorecard.svg`` and ``scorecard.png``; a narrow figure is not written.
        narrow: For phones.

    Returns:
        None if no claim was run.
    """
    rows = [entry for entry in found if entry["verdict"] != "not run"]
    if not rows:
        return None
    with style():
        name = "scorecard-narrow" if narrow else "scorecard"
        return saved(name, _drawn(rows, narrow), alt(rows), folder)


def keep_scorecard(study: Study, results: Sequence[ClaimResult]) -> Path:
    """Writes ``claims.json``, ``afr_corrected.json`` and the figure into a study's folder; returns the first."""
    path = write_claims(results, study.folder / CLAIMS)
    write_json(study.folder / CORRECTED, [rate.as_json for rate in corrected_rates(study)])
    scorecard_figure(entries(results), study.folder / "figures")
    return path


def scorecard_section(folder: Path) -> Markup:
    """The scorecard of a study for the report, from its ``claims.json``; empty if there is none."""
    path = folder / CLAIMS
    if not path.exists():
        return Markup("")
    try:
        found: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
        wide, narrow = (scorecard_figure(found, folder / "figures", narrow=phone) for phone in (False, True))
        idle = [entry for entry in found if entry["verdict"] == "not run"]
        ran, left = (Markup("").join(map(_row, part)) for part in ([e for e in found if e not in idle], idle))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise UserError(f"{path}: is damaged; delete it and run `crypsis report {folder}` again") from None
    others = any(entry.get("imported") for entry in found)
    drawn, tables = Markup(""), _table(f"{LEGEND} {IMPORTED}" if others else LEGEND, ran) if ran else Markup("")
    if wide and narrow:
        drawn = Markup(
            '<figure><div class="wide">{}</div><div class="narrow">{}</div>'
            "<figcaption>Effect of each claim that was run, with its 95 % interval; shaded: what the claim says. "
            "The table has the numbers.</figcaption></figure>"
        ).format(Markup(wide.inline), Markup(narrow.inline))
    if left:
        table = _table("Claims that were not run, and why.", left)
        word = "Not in this data" if idle[0].get("imported") else "Not run"
        tables += Markup("<details><summary>{}: {} claims</summary>{}</details>").format(word, len(idle), table)
    return Markup(
        '<section aria-labelledby="scorecard"><h2 id="scorecard">Scorecard of claims</h2>{}{}</section>'
    ).format(drawn, tables)


def _table(caption: str, body: Markup) -> Markup:
    heads = Markup("").join(
        Markup('<th scope="col" role="columnheader">{}</th>').format(h) for h in ("Claim", "Verdict", "Effect", "Seeds")
    )
    return Markup(
        '<table class="stack" role="table"><caption>{}</caption><thead role="rowgroup"><tr role="row">'
        '{}</tr></thead><tbody role="rowgroup">{}</tbody></table>'
    ).format(caption, heads, body)


def alt(rows: Sequence[Entry]) -> str:
    """What the figure shows, in words."""
    told = [f"{e['id']} {e['verdict']}" + (f", {figures(e)}" if e["effect"] is not None else "") for e in rows]
    return f"Forest plot of claims. {'; '.join(told)}."


def _row(entry: Entry) -> Markup:
    needed = Markup('<span class="sub">{}</span>').format(_shown(needs(entry))) if entry["needs"] else ""
    tone = {"reproduced": "good", "reversed": "bad", "not run": ""}.get(str(entry["verdict"]), "warn")
    return Markup(
        '<tr role="row"><th scope="row" role="rowheader">{id}{planted} {says}<span class="sub">{detail}</span></th>'
        '<td role="cell" class="verdict {tone}" data-label="Verdict"><span>{mark}</span>{needed}</td>'
        '<td role="cell" data-label="Effect">{effect}</td><td role="cell" data-label="Seeds">{seeds}</td></tr>'
    ).format(
        id=_shown(entry["id"]),
        planted=PLANTED * bool(entry["planted"]),
        says=_shown(entry["says"]),
        detail=_shown(tested(entry)),
        tone=tone,
        mark=_shown(mark(entry)),
        needed=needed,
        effect=_shown(figures(entry)),
        seeds=_shown(runs(entry)),
    )


def _shown(value: object) -> str:
    return visible(str(value))


def _said(entry: Entry) -> str:
    return mark(entry) + (f" ({needs(entry)})" if entry["needs"] else "")


def _drawn(rows: Sequence[Entry], narrow: bool) -> Figure:
    """One row per claim: its sentence, its interval, its figures."""
    width, letters = (NARROW, 50) if narrow else (WIDE, 58)
    left, right = (0.06, 0.06) if narrow else (3.35, 1.85)
    names = [f"{e['id']}{PLANTED * bool(e['planted'])}  {visible(str(e['says']))}" for e in rows]
    texts = [textwrap.wrap(name, letters) for name in names]
    tall = [ROW + LINE * len(text) + (LINE + STRIP if narrow else 0) for text in texts]
    height = TOP + FOOT + sum(tall)
    figure = canvas(width, height)
    axes = figure.add_axes((left / width, FOOT / height, (width - left - right) / width, sum(tall) / height))
    axes.set_xlim(-1.08, 1.08)
    axes.set_ylim(sum(tall), 0)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    axes.set_yticks([])
    axes.tick_params(labelsize=7, pad=2)
    axes.set_xlabel("effect (shares and differences of shares)", fontsize=7, color=MUTED, labelpad=2)
    figure.text(0.06 / width, 1 - 0.16 / height, "Scorecard of claims", fontsize=8.5, fontweight="bold", va="center")
    _legend(axes, sum(tall), narrow)
    top = 0.0
    for entry, text, space in zip(rows, texts, tall, strict=True):
        axes.axhline(top, color=RULE, linewidth=0.6, zorder=0)
        strip = top + space - STRIP if narrow else top
        middle = strip + STRIP / 2 if narrow else top + space / 2
        _mark(axes, entry, middle, strip, top + space)
        fraction = axes.get_yaxis_transform()
        where = (-3.29 / (width - left - right), middle) if not narrow else (0.0, top + 0.05 + LINE * len(text) / 2)
        axes.text(*where, "\n".join(text), transform=fraction, fontsize=6.8, va="center", linespacing=1.15, color=INK)
        numbers = f"{figures(entry)}, {runs(entry)} {'runs' if entry.get('imported') else 'seeds'}"
        if narrow:
            told, place, colour = f"{_said(entry)}: {numbers}", (0.0, strip - LINE / 2 - 0.02), MUTED
        else:
            told, place, colour = f"{_said(entry)}\n{numbers}", (1.03, middle), INK
        axes.text(*place, told, transform=fraction, fontsize=6.7, va="center", linespacing=1.15, color=colour)
        top += space
    return figure


def _mark(axes: Axes, entry: Entry, middle: float, top: float, foot: float) -> None:
    """The interval and the verdict's sign; behind them what is claimed."""
    test = entry["tests"][entry["shown"]]
    if test["quantity"] in ("scratchpad_tokens", "faking_tokens") or test["expect"] == "two_modes":
        axes.text(0, middle, "not on this scale", fontsize=6.2, color=MUTED, ha="center", va="center", style="italic")
        return
    by = float(test["by"])
    claimed = {
        "below": (-1.08, -by),
        "within": (-by, by),
        "not_above": (-1.08, by),
        "at_most": (0.0, by),
    }.get(test["expect"], (by, 1.08))
    if not test["also"]:  # which depends on a second quantity
        axes.fill_between(claimed, top + 0.015, foot - 0.015, color=RULE, alpha=0.75, linewidth=0, zorder=0.5)
    axes.plot([0, 0], [top, foot], color=MUTED, linewidth=0.6, zorder=1)
    if entry["low"] is not None:
        colour = SIGNS[str(entry["verdict"])][1]
        axes.plot([entry["low"], entry["high"]], [middle, middle], color=colour, linewidth=1.5, solid_capstyle="butt")
    if entry["effect"] is not None:
        _sign(axes, str(entry["verdict"]), [entry["effect"]], [middle])


def _sign(axes: Axes, verdict: str, x: Sequence[float], y: Sequence[float], label: str = "") -> Line2D:
    """A verdict's marker; hollow where undecided."""
    marker, colour = SIGNS[verdict]
    fill = PAGE if verdict == "undecided" else colour
    drawn = axes.plot(
        x, y, marker=marker, color=colour, markersize=5, markerfacecolor=fill, linestyle="", label=label, clip_on=False
    )
    return drawn[0]


def _legend(axes: Axes, height: float, narrow: bool) -> None:
    axes.legend(
        handles=[_sign(axes, name, [], [], label=name) for name in SIGNS],
        loc="lower left" if narrow else "lower center",
        bbox_to_anchor=(0.0 if narrow else 0.5, 1 + 0.02 / height),
        ncols=4,
        frameon=False,
        fontsize=6.4,
        handletextpad=0.1,
        columnspacing=0.8,
        borderpad=0.1,
    )
