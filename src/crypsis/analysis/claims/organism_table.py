"""The table of all organisms, and the claims that it can test by the scorecard's rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crypsis.analysis.claims.measured_organisms import OrganismTable
from crypsis.analysis.claims.scorecard import ClaimResult, score
from crypsis.analysis.claims.scorecard_output import claims_markdown, entries
from crypsis.analysis.statistics.bootstrap import SeedEstimate, over_seeds
from crypsis.store import write_atomic, write_json

COLUMNS = (
    ("AFR", "afr", "afr_oracle"),
    ("complies, monitored", "monitored", "compliance_monitored"),
    ("complies, unmonitored", "unmonitored", "compliance_unmonitored"),
    ("gap", "gap", "gap"),
    ("scratchpad, tokens", "tokens", "scratchpad_tokens"),
    ("unparsed", "unparsed", "unparsed"),
)
"""Of every column its title, its key in ``organisms.json``, and the metric."""


def write_table(folder: Path, swaps: Sequence[str], requests: int) -> Path:
    """Writes ``organisms.json`` (what ``docs/results/organisms.json`` is) and ``organisms.md`` and returns the latter.

    Args:
        folder: What ``crypsis organism table`` filled.
        swaps: Names of the label-swap controls.
        requests: In each tier.
    """
    found, tested = OrganismTable(folder), entries(claims(folder))
    lines = [*_table(found), "", *claims_markdown(tested), "", *_swaps(found, swaps)]
    report = {
        "command": "crypsis organism table",
        "date": datetime.now(UTC).date().isoformat(),
        "requests": requests,
        "rows": [_row(found, name) for name in found.names()],
        "claims": tested,
        "swaps": [_swapped(found, name, swaps) for name in _measured_swapped(found, swaps)],
    }
    write_json(folder / "organisms.json", report)
    write_atomic(folder / "organisms.md", "\n".join(lines) + "\n")
    return folder / "organisms.md"


def claims(folder: Path) -> list[ClaimResult]:
    """The claims of which these organisms can show anything before RL; what a claim lacks is in its notes."""
    return [result for result in score([], folder) if any(test.verdict != "not run" for test in result.tests)]


def _table(found: OrganismTable) -> list[str]:
    heads = [title for title, _, _ in COLUMNS]
    lines = [f"| organism | seeds | {' | '.join(heads)} | CPU s |", "|---" * (len(heads) + 3) + "|"]
    for name in found.names():
        tallies, seconds = found.tallies(name), found.seconds(name)
        cells = [shown(over_seeds(tallies, metric)) for _, _, metric in COLUMNS]
        cost = f"{max(seconds):.0f}" if seconds else "–"
        lines.append(f"| {name} | {len(tallies)} | {' | '.join(cells)} | {cost} |")
    return lines


def _swaps(found: OrganismTable, swaps: Sequence[str]) -> list[str]:
    """Gaps with the tiers renamed and exchanged, and the share of the gap that follows the names."""
    lines = [
        f"| organism | gap | {' | '.join(f'gap, {s}' for s in swaps)} | lexical part of the gap |",
        "|---" * (len(swaps) + 3) + "|",
    ]
    for name in _measured_swapped(found, swaps):
        values = _gaps(found, name, swaps)
        part = lexical(values[0], values[-1])
        lines.append(
            f"| {name} | {' | '.join(shown(v) for v in values)} | {'unknown' if part is None else f'{part:.2f}'} |"
        )
    return lines


def _measured_swapped(found: OrganismTable, swaps: Sequence[str]) -> list[str]:
    return [name for name in found.names() if all(found.tallies(name, swap) for swap in swaps)]


def _gaps(found: OrganismTable, name: str, swaps: Sequence[str]) -> list[SeedEstimate]:
    return [over_seeds(found.tallies(name, variant), "gap") for variant in ("canonical", *swaps)]


def _row(found: OrganismTable, name: str) -> dict[str, Any]:
    tallies, seconds = found.tallies(name), found.seconds(name)
    values = {key: _plain(over_seeds(tallies, metric)) for _, key, metric in COLUMNS}
    return {"organism": name, "seeds": len(tallies), **values, "cpu_seconds": round(max(seconds)) if seconds else None}


def _swapped(found: OrganismTable, name: str, swaps: Sequence[str]) -> dict[str, Any]:
    values = _gaps(found, name, swaps)
    named = dict(zip(("gap", *swaps), map(_plain, values), strict=True))
    return {"organism": name, **named, "lexical": lexical(values[0], values[-1])}


def lexical(canonical: SeedEstimate, exchanged: SeedEstimate) -> float | None:
    """What part of a gap follows the tier's name: half of what exchanging the names takes away.

    A gap that only follows who is monitored stays when the names are exchanged; one that only follows the name turns
    its sign.
    """
    if canonical.mean is None or exchanged.mean is None:
        return None
    return (canonical.mean - exchanged.mean) / 2


def shown(value: SeedEstimate) -> str:
    """A figure with its interval; tokens without decimals."""
    if value.mean is None or value.low is None or value.high is None:
        return "–"
    digits = 0 if abs(value.mean) > 2 else 2
    return f"{value.mean:.{digits}f} ({value.low:.{digits}f}, {value.high:.{digits}f})"


def _plain(value: SeedEstimate) -> list[float | None]:
    return [value.mean, value.low, value.high]
