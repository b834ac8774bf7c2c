"""The scorecard as a forest plot."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from crypsis.analysis.claims.corrected_rates import corrected_rates
from crypsis.analysis.claims.scorecard import ClaimResult
from crypsis.analysis.claims.scorecard_output import (
    CLAIMS,
    PLANTED,
    Entry,
    entries,
    figures,
    mark,
    needs,
    runs,
    write_claims,
)
from crypsis.analysis.figures.drawing import (
    BAD,
    GOOD,
    INK,
    MUTED,
    NARROW,
    PAGE,
    RULE,
    WIDE,
    Picture,
    number_text,
    saved,
)
from crypsis.analysis.figures.panels import BOLD, INCH, MIDDLE, SMALL, Axes
from crypsis.analysis.figures.sheet import Label, Marks, Place, Shape, Sheet, corners
from crypsis.analysis.naming import spell_out
from crypsis.analysis.study import Study
from crypsis.store import write_json

CORRECTED = "afr_corrected.json"
SIGNS = {"reproduced": ("o", GOOD), "absent": ("s", MUTED), "reversed": ("v", BAD), "undecided": ("D", INK)}
SIGNS |= {"degenerate": ("X", MUTED)}
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
    name = "scorecard-narrow" if narrow else "scorecard"
    return saved(name, _drawn(rows, narrow), alt(rows), None if narrow else folder)


def keep_scorecard(study: Study, results: Sequence[ClaimResult]) -> Path:
    """Writes ``claims.json``, ``afr_corrected.json`` and the figure into a study's folder; returns the first."""
    path = write_claims(results, study.folder / CLAIMS)
    write_json(study.folder / CORRECTED, [rate.as_json for rate in corrected_rates(study)])
    scorecard_figure(entries(results), study.folder / "figures")
    return path


def alt(rows: Sequence[Entry]) -> str:
    """What the figure shows, in words."""
    told = [f"{e['id']} {e['verdict']}" + (f", {figures(e)}" if e["effect"] is not None else "") for e in rows]
    return f"Forest plot of claims. {'; '.join(told)}."


def _said(entry: Entry) -> str:
    return mark(entry) + (f" ({needs(entry)})" if entry["needs"] else "")


def _drawn(rows: Sequence[Entry], narrow: bool) -> Sheet:
    """One row per claim: its sentence, its interval, its figures."""
    width, letters = (NARROW, 52) if narrow else (WIDE, 74)
    left, right = (0.06, 0.06) if narrow else (4.1, 2.1)
    names = [spell_out(f"{e['id']}{PLANTED * bool(e['planted'])}  {e['says']}") for e in rows]
    texts = [textwrap.wrap(name, letters) for name in names]
    tall = [ROW + LINE * max(len(text), 1 if narrow else 2) + (LINE + STRIP if narrow else 0) for text in texts]
    sheet = Sheet(width * INCH, (TOP + FOOT + sum(tall)) * INCH, PAGE)
    box = (left * INCH, TOP * INCH, (width - right) * INCH, (TOP + sum(tall)) * INCH)
    axes = Axes(box, (-1.08, 1.08), (0.0, 1.0))
    _add_head(sheet, axes, narrow)
    top = box[1]
    for entry, text, space in zip(rows, texts, tall, strict=True):
        sheet.items.append(Shape([(box[0], top), (box[2], top)], RULE, 0.6))
        foot = top + space * INCH
        strip = foot - STRIP * INCH if narrow else top
        middle = (strip + foot) / 2
        _add_mark(sheet, axes, entry, strip, foot)
        first = top + 10 if narrow else middle + MIDDLE - LINE * INCH * (len(text) - 1) / 2
        for number, words in enumerate(text):
            sheet.items.append(Label(words, (4.0 if narrow else 0.0, first + number * LINE * INCH), SMALL, INK))
        numbers = f"{figures(entry)}, {runs(entry)} {'runs' if entry.get('imported') else 'seeds'}"
        if narrow:
            sheet.items.append(Label(f"{_said(entry)}: {numbers}", (4.0, strip - 3), SMALL, MUTED))
        else:
            for number, words in enumerate((_said(entry), numbers)):
                place = (box[2] + 6, middle + MIDDLE + LINE * INCH * (number - 0.5))
                sheet.items.append(Label(words, place, SMALL, INK))
        top = foot
    return sheet


def _add_head(sheet: Sheet, axes: Axes, narrow: bool) -> None:
    """Title, legend of the verdicts, and the axis below."""
    left, top, right, bottom = axes.box
    sheet.items.append(Label("Scorecard of claims", (4.0 if narrow else 0.0, 12), BOLD, INK, bold=True))
    x = left + 4 if narrow else left
    for verdict in SIGNS:
        _add_sign(sheet, verdict, (x, top - 9))
        sheet.items.append(Label(verdict, (x + 6, top - 9 + MIDDLE), SMALL, INK))
        x += 14 + 3.9 * len(verdict)
    sheet.items.append(Shape([(left, bottom), (right, bottom)], MUTED, 0.7))
    for tick in (-1, -0.5, 0, 0.5, 1):
        x = axes.at(tick, 0)[0]
        sheet.items.append(Shape([(x, bottom), (x, bottom + 3)], MUTED, 0.7))
        sheet.items.append(Label(number_text(tick), (x, bottom + 10.3), SMALL, MUTED, "middle"))
    words = "effect (shares and differences of shares)"
    sheet.items.append(Label(words, ((left + right) / 2, bottom + 19.5), SMALL, MUTED, "middle"))


def _add_mark(sheet: Sheet, axes: Axes, entry: Entry, top: float, foot: float) -> None:
    """The interval and the verdict's sign; behind them what is claimed."""
    test, middle = entry["tests"][entry["shown"]], (top + foot) / 2
    zero = axes.at(0, 0)[0]
    if test["quantity"] in ("scratchpad_tokens", "faking_tokens") or test["expect"] == "two_modes":
        sheet.items.append(Label("not on this scale", (zero, middle + MIDDLE), SMALL, MUTED, "middle"))
        return
    by = float(test["by"])
    claimed = {
        "below": (-1.08, -by),
        "within": (-by, by),
        "not_above": (-1.08, by),
        "holds_zero": (0.0, 0.0),
        "at_most": (0.0, by),
    }.get(test["expect"], (by, 1.08))
    if not test["also"]:  # which depends on a second quantity
        ends = [axes.at(value, 0)[0] for value in claimed]
        sheet.items.append(Shape(corners((ends[0], top + 1, ends[1], foot - 1)), fill=RULE, opacity=0.75))
    sheet.items.append(Shape([(zero, top), (zero, foot)], MUTED, 0.6))
    if entry["low"] is not None:
        ends = [axes.at(max(-1.08, min(1.08, float(entry[end]))), 0)[0] for end in ("low", "high")]
        sheet.items.append(Shape([(x, middle) for x in ends], SIGNS[str(entry["verdict"])][1], 1.5))
    if entry["effect"] is not None:
        effect = max(-1.08, min(1.08, float(entry["effect"])))
        _add_sign(sheet, str(entry["verdict"]), (axes.at(effect, 0)[0], middle))


def _add_sign(sheet: Sheet, verdict: str, place: Place) -> None:
    """A verdict's marker; hollow where undecided."""
    marker, colour = SIGNS[verdict]
    sheet.items.append(Marks(marker, 5.0, [place], PAGE if verdict == "undecided" else colour, colour, 1.0))
