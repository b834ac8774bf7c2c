"""The rule by which a test of a claim is decided, and how decisions are joined.

``docs/statistics.md`` says the same in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crypsis.analysis.claims.schema import Expect, Over
from crypsis.analysis.statistics.seed_tests import MOST_SEEDS

ClaimVerdict = Literal["reproduced", "absent", "reversed", "undecided", "degenerate", "not run"]
VERDICTS: tuple[ClaimVerdict, ...] = ("reproduced", "absent", "reversed", "undecided", "degenerate", "not run")
ENOUGH = 5
"""Seeds to run where there are too few for an interval over seeds (the scorecard's own standard)."""
ORGANISMS = 2
"""A claim about every, most or some organisms, or their average, needs at least so many."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What it would take to decide.

    Attributes:
        count: How many; None for more than ``MOST_SEEDS``.
        of: What is short: ``seeds``, ``organisms``, or ``requests`` where seeds hardly differ.
    """

    count: int | None
    of: Literal["seeds", "organisms", "requests"]

    def __str__(self) -> str:
        """The text that the scorecard shows."""
        return f"needs {f'more than {MOST_SEEDS}' if self.count is None else self.count} {self.of}"


def decide(expect: Expect, by: float, effect: float, low: float | None, high: float | None) -> ClaimVerdict:
    """The verdict on one quantity from its 95 % interval.

    ========== ============================= ============================== =============================
    expect     reproduced                    reversed                       absent
    ========== ============================= ============================== =============================
    above      low > 0 and effect >= by      high < 0 and effect <= -by     high < by, and not reversed
    below      the same of the negative quantity
    within     -by < low and high < by       never                          low >= by or high <= -by
    not_above  high < by                     never                          low > 0 and effect >= by
    holds_zero low <= 0 <= high              never                          low > 0 or high < 0
    at_least   low >= by                     never                          high < by
    at_most    high <= by                    never                          low > by
    ========== ============================= ============================== =============================

    Everything else is undecided, and so is a quantity without an interval over seeds. ``holds_zero`` is weak: a wide
    interval holds 0, too. ``varies`` is ``at_least``
    of the deviation between seeds, ``correlates`` is ``above`` of a correlation.
    """
    if low is None or high is None:
        return "undecided"
    if expect == "below":
        return decide("above", by, -effect, -high, -low)
    if expect in ("above", "correlates"):
        if low > 0 and effect >= by:
            return "reproduced"
        if high < 0 and effect <= -by:
            return "reversed"
        return "absent" if high < by else "undecided"
    holds, fails = {
        "within": (-by < low and high < by, low >= by or high <= -by),
        "holds_zero": (low <= 0 <= high, low > 0 or high < 0),
        "not_above": (high < by, low > 0 and effect >= by),
        "at_most": (high <= by, low > by),
    }.get(expect, (low >= by, high < by))
    return "reproduced" if holds else "absent" if fails else "undecided"


def all_of(verdicts: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """Verdict on parts that must all hold: the first of these that fits.

    Not run if a part was not; reversed if all are; absent if a part is absent or reversed; degenerate if a part is;
    undecided if a part is; else reproduced.
    """
    if "not run" in verdicts:
        return "not run"
    if all(verdict == "reversed" for verdict in verdicts):
        return "reversed"
    if "absent" in verdicts or "reversed" in verdicts:
        return "absent"
    if "degenerate" in verdicts:
        return "degenerate"
    return "undecided" if "undecided" in verdicts else "reproduced"


def of_claim(verdicts: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """Verdict on a claim from its tests', the principal one first: as ``all_of``, but reversed if the principal is."""
    joined = all_of(verdicts)
    return "reversed" if joined == "absent" and verdicts[0] == "reversed" else joined


def over_organisms(over: Over, verdicts: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """Verdict on every, most, some, or some but not every organism, from one verdict per organism."""
    count = len(verdicts)
    holds, turned, open_, odd = (verdicts.count(v) for v in ("reproduced", "reversed", "undecided", "degenerate"))
    unknown = open_ + odd
    undecided: ClaimVerdict = "degenerate" if odd and not open_ else "undecided"
    fails = count - holds - unknown
    if over == "every":
        return all_of(verdicts)
    if over == "most":
        if 2 * holds > count:
            return "reproduced"
        if 2 * turned > count:
            return "reversed"
        return "absent" if 2 * fails >= count else undecided
    if over == "some":
        if holds:
            return "reproduced"
        return "reversed" if turned == count else undecided if unknown else "absent"
    if holds and fails:
        return "reproduced"
    return undecided if unknown else "absent"
