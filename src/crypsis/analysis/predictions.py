"""Predictions that were written as claims before a study, beside what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crypsis.analysis.claims.evidence import collect
from crypsis.analysis.claims.schema import check_arms, read_claims
from crypsis.analysis.claims.scorecard import ClaimResult, evaluate
from crypsis.analysis.claims.scorecard_output import entries, figures, tested
from crypsis.analysis.claims.verdicts import ClaimVerdict
from crypsis.analysis.statistics.pooling import FEW
from crypsis.analysis.study import Study
from crypsis.types import visible

RIGHT, WRONG, UNDECIDED, NOT_RUN = "right", "wrong", "undecided", "not run"
OUTCOMES: dict[ClaimVerdict, str] = {
    "reproduced": RIGHT,
    "absent": WRONG,
    "reversed": WRONG,
    "undecided": UNDECIDED,
    "degenerate": UNDECIDED,
    "not run": NOT_RUN,
}
"""What a verdict says of a prediction."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions and what came out.

    Attributes:
        path: The file of claims.
        results: Each with its tests.
    """

    path: Path
    results: Sequence[ClaimResult]

    def count(self, outcome: str) -> int:
        """How many came out so."""
        return sum(OUTCOMES[result.uncorrected] == outcome for result in self.results)

    def lines(self) -> list[str]:
        """The section of a page: counts, a table, and how it was decided."""
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in (RIGHT, WRONG, UNDECIDED, NOT_RUN))
        lines = [
            f"Of {len(self.results)} predictions in `{self.path.name}`: **{counts}**. One is right if all its tests",
            f"hold and wrong if one fails, by 95 % intervals that are not corrected for their number; fewer than {FEW}",
            "seeds decide nothing. The figures are those of the test that decides.",
            "",
            "| prediction | says | is | effect [95 %] | of what, seeds |",
            "|---|---|---|---|---|",
        ]
        for result, entry in zip(self.results, entries(self.results), strict=True):
            cells = [result.claim.id, result.claim.says, OUTCOMES[result.uncorrected], figures(entry)]
            cells.append(f"{tested(entry)}; {entry['seeds']}" if entry["seeds"] else "–")
            lines.append("| " + " | ".join(visible(cell).replace("|", "\\|") for cell in cells) + " |")
        return lines


def check_predictions(studies: Sequence[Study], path: Path) -> Predictions:
    """Tests a file of predictions on studies; arms that have not run yet are "not run".

    Raises:
        UserError: The file does not fit, or names an arm that no study has in its config.
    """
    evidence, file = collect(studies), read_claims(path)
    planned = [str(arm) for study in studies for arm in study.config.get("arms") or {}]
    check_arms(file, str(path), sorted({*evidence.arms(file), *planned}))
    return Predictions(path, evaluate(file, evidence))
