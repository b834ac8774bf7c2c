"""The scorecard of claims as a section of the report: what the study decides, and the rest in one folded line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from crypsis.analysis.claims.scorecard_figure import scorecard_figure
from crypsis.analysis.claims.scorecard_output import (
    CLAIMS,
    IMPORTED,
    LEGEND,
    PLANTED,
    Entry,
    figures,
    mark,
    needs,
    runs,
    tested,
)
from crypsis.analysis.naming import spell_out
from crypsis.types import UserError, visible

OPEN = ("undecided", "not run")
"""Verdicts on claims that the study leaves open."""
HEADS = ("Claim", "Verdict", "Effect", "Seeds")


def scorecard_section(folder: Path) -> Markup:
    """The scorecard of a study, from its ``claims.json``; empty if there is none.

    Claims that the study decides stand in a table; those that it cannot decide are one folded line. The figure of all
    that were run stands where most of them do.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / CLAIMS
    if not path.exists():
        return Markup("")
    try:
        found: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
        decided = [entry for entry in found if entry["verdict"] not in OPEN]
        left = [entry for entry in found if entry["verdict"] in OPEN]
        drawn, parts = _figure(found, folder), [Markup(""), Markup("")]
        if decided:
            parts[0] = _table(_legend(found), decided)
        if left:
            parts[1] = _table("" if decided else _legend(found), left)
        shown = len(decided) >= len([entry for entry in left if entry["verdict"] == "undecided"])
        parts[0 if shown else 1] = drawn + parts[0 if shown else 1]
        folded = Markup("<details><summary>{}</summary>{}</details>").format(_left(left), parts[1]) if left else ""
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise UserError(f"{path}: is damaged; delete it and run `crypsis report {folder}` again") from None
    return Markup(
        '<section aria-labelledby="scorecard"><h2 id="scorecard">Claims of the paper</h2>{}{}</section>'
    ).format(parts[0], folded)


def _figure(found: Sequence[Entry], folder: Path) -> Markup:
    wide, narrow = (scorecard_figure(found, folder / "figures", narrow=phone) for phone in (False, True))
    if not wide or not narrow:
        return Markup("")
    return Markup(
        '<figure><div class="wide">{}</div><div class="narrow">{}</div>'
        "<figcaption>Effect of each claim that was run, with its 95 % interval; shaded: what the claim says. "
        "The table has the numbers.</figcaption></figure>"
    ).format(Markup(wide.inline), Markup(narrow.inline))


def _legend(found: Sequence[Entry]) -> str:
    return f"{LEGEND} {IMPORTED}" if any(entry.get("imported") for entry in found) else LEGEND


def _left(left: Sequence[Entry]) -> str:
    """The line that stands for the claims left open: how many, and what would decide them."""
    idle = sum(entry["verdict"] == "not run" for entry in left)
    absent = "are not in this data" if left[0].get("imported") else "were not run"
    wanted = Counter(
        needs(entry) if entry["needs"] else "are undecided" for entry in left if entry["verdict"] != "not run"
    )
    parts = [f"{count} {what if what.startswith('are') else f'({what})'}" for what, count in wanted.most_common()]
    parts += [f"{idle} {absent}"] if idle else []
    return f"{len(left)} claims that this study cannot decide: {', '.join(parts)}"


def _table(caption: str, rows: Sequence[Entry]) -> Markup:
    heads = Markup("").join(Markup('<th scope="col" role="columnheader">{}</th>').format(h) for h in HEADS)
    return Markup(
        '<table class="stack" role="table"><caption>{}</caption><thead role="rowgroup"><tr role="row">'
        '{}</tr></thead><tbody role="rowgroup">{}</tbody></table>'
    ).format(caption, heads, Markup("").join(map(_row, rows)))


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
    return visible(spell_out(str(value)))
