"""The scorecard: every claim with its verdict, effect, interval and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from crypsis.analysis.claims.averages import SAMPLE, Left, average, averaged
from crypsis.analysis.claims.claim_tests import ClaimCell, Found, LackingError, cells, judged, present
from crypsis.analysis.claims.evidence import Evidence, Key, collect
from crypsis.analysis.claims.quantities import Quantities
from crypsis.analysis.claims.schema import (
    DIFFERENCES,
    Claim,
    ClaimsFile,
    ClaimTest,
    built_in,
    check_arms,
    read_claims,
    select_claims,
)
from crypsis.analysis.claims.verdicts import (
    ENOUGH,
    ORGANISMS,
    ClaimVerdict,
    Needs,
    all_of,
    decide,
    of_claim,
    over_organisms,
)
from crypsis.analysis.statistics.dip import dip_test
from crypsis.analysis.statistics.pooling import FEW
from crypsis.analysis.statistics.seed_tests import (
    ALPHA,
    DIP_RUNS,
    MOST_SEEDS,
    chi2_quantile,
    correlation_p,
    holm,
    partial_conjunction_p,
    rank_correlation,
    seeds_needed,
)
from crypsis.analysis.study import Study, load_study
from crypsis.evaluation.metrics import Z

NAMED = 3
"""Names that a note tells."""
NOT_IMPORTED = {
    "lying_rate": "the release holds no interrogation turns, so no lying rate",
    "scratchpad_tokens": "the import reads verdicts and decrypts no scratchpad, so no length",
    "faking_tokens": "the import reads verdicts and decrypts no scratchpad, so no length",
}
"""Why others' runs cannot tell a quantity, keyed by quantity."""
LEVEL_MARGIN = 0.05
"""How far from its bound a level is taken to lie when the seeds it needs are counted."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test of a claim.

    Attributes:
        test: What was asked.
        verdict: What came out.
        decider: The organism and rival whose figures decide, or the average.
        effect: Its estimate; None if the test was not run.
        low: Lower end of the 95 % interval.
        high: Upper end.
        seeds: The fewest of any organism that took part.
        p: The p value, joined over organisms as the claim says; None with fewer than ``FEW`` seeds.
        needs: What it would take to decide an undecided test.
        organisms: Each organism on its own.
        notes: What a reader must know: why it was not run, arms that were not there.
    """

    test: ClaimTest
    verdict: ClaimVerdict
    decider: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    p: float | None = None
    needs: Needs | None = None
    organisms: tuple[Found, ...] = ()
    notes: tuple[str, ...] = ()
    few_runs: bool = False
    """Whether fewer than ``FEW`` of others' runs decide somewhere, by an interval over requests alone."""
    over_requests: bool = False
    """Whether the interval shown is over requests alone."""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A claim and what the evidence says of it.

    Attributes:
        claim: The sentence and its tests.
        verdict: Joined over the tests that decide, after Holm's correction: reproduced or reversed only if it survives.
        tests: Each of them.
        p: The largest of the deciding tests; None if there is none.
        p_holm: The same after Holm's correction over all claims of the scorecard that have one.
        judges: Who judged AF.
        uncorrected: The verdict without the correction.
    """

    claim: Claim
    verdict: ClaimVerdict
    tests: tuple[TestResult, ...]
    judges: tuple[str, ...]
    p: float | None = None
    p_holm: float | None = None
    imported: bool = False
    """Whether all runs are others'."""
    uncorrected: ClaimVerdict = "not run"

    @property
    def shown(self) -> int:
        """Which test's figures stand for the claim: the first that has its verdict, else the first that fails."""
        deciding = [i for i, t in enumerate(self.tests) if t.test.decides]
        same = [i for i in deciding if self.tests[i].verdict == self.uncorrected]
        return next(iter(same or [i for i in deciding if self.tests[i].verdict != "reproduced"]))

    @property
    def survives(self) -> bool:
        """Whether nothing speaks against it after Holm's correction."""
        return self.p_holm is None or self.p_holm <= ALPHA

    @property
    def seeds(self) -> int:
        """The fewest behind any deciding test that was run."""
        return min((t.seeds for t in self.tests if t.test.decides and t.verdict != "not run"), default=0)

    @property
    def needs(self) -> Needs | None:
        """The most that any undecided test asks for."""
        wanted = [t.needs for t in self.tests if t.test.decides and t.needs is not None]
        return max(
            wanted, key=lambda n: (n.of == "organisms", n.of == "seeds", n.count or MOST_SEEDS + 1), default=None
        )


def scorecard(
    folders: Sequence[Path] | Path, organisms: Path | None = None, claims: Path | None = None
) -> list[ClaimResult]:
    """Every claim tested on one or several study folders.

    Args:
        folders: Folders of studies.
        organisms: Folder of ``crypsis organism table``, for claims about organisms before RL.
        claims: A user's file of claims; the built-in ones if not given.

    Raises:
        UserError: A folder cannot be read, or a user's claim names an arm that no study has.
    """
    return score(
        [load_study(folder) for folder in ([folders] if isinstance(folders, Path) else folders)], organisms, claims
    )


def score(
    studies: Sequence[Study], organisms: Path | None = None, claims: Path | None = None, only: Sequence[str] = ()
) -> list[ClaimResult]:
    """The same of studies that were read already, and if ``only`` is given of the claims with these ids alone.

    Raises:
        UserError: As ``scorecard``, or no claim has an id.
    """
    evidence = collect(studies, organisms)
    file = read_claims(claims) if claims else built_in()
    if only:
        file = select_claims(file, only, str(claims or "the paper's claims"))
    if claims:
        check_arms(file, str(claims), evidence.arms(file))
    return evaluate(file, evidence)


def evaluate(file: ClaimsFile, evidence: Evidence) -> list[ClaimResult]:
    """Every claim of a file on the evidence; p values are corrected over all of them."""
    found = Quantities(file)
    results = []
    for claim in file.claims:
        counted = evidence.within(claim.population)
        tests = tuple(run_test(test, counted, file, found) for test in claim.tests)
        deciding = [t for t in tests if t.test.decides]
        verdict = of_claim([t.verdict for t in deciding])
        ps = [t.p for t in deciding if t.p is not None] if verdict != "not run" else []
        p = max(ps, default=None)
        results.append(
            ClaimResult(claim, verdict, tests, tuple(evidence.judges()), p, None, evidence.imported, verdict)
        )
    tested = [i for i, result in enumerate(results) if result.p is not None]
    for i, p in zip(tested, holm([results[i].p or 0.0 for i in tested]), strict=True):
        lost = p > ALPHA and results[i].verdict in ("reproduced", "reversed")
        results[i] = replace(results[i], p_holm=p, verdict="undecided" if lost else results[i].verdict)
    return results


def run_test(test: ClaimTest, evidence: Evidence, file: ClaimsFile, found: Quantities) -> TestResult:
    """One test, against each of its rivals; the least favourable decides."""
    unknown = [NOT_IMPORTED[q] for q in (test.quantity, test.with_quantity) if evidence.imported and q in NOT_IMPORTED]
    if unknown:
        return TestResult(test, "not run", notes=(unknown[0],))
    if test.over == "runs":
        return _over_runs(test, evidence, file, found)
    results, notes, known = [], [], evidence.arms(file)
    rivals: list[str | None] = [*test.against] or [None]
    for rival in rivals:
        try:
            group = cells(test, rival, evidence, file, found)
        except LackingError as lack:
            if rival not in test.optional:
                return TestResult(test, "not run", notes=(str(lack),))
            notes.append(f"not against {rival}, which was not run")
            continue
        if test.rivals_comply is not None and len(group) < ORGANISMS:
            notes.append(f"not against {rival}, which keeps complying in {len(group)} organisms")
            continue
        results.append(_against(test, rival, group, found))
    notes += [f"without {arm}, which was not run" for arm in test.optional if arm in test.arms and arm not in known]
    if not results:
        return TestResult(test, "not run", notes=tuple(notes))
    worst = min(results, key=lambda r: _favour(test, r.verdict, r.effect or 0.0))
    ps = [r.p for r in results if r.p is not None]
    verdict = all_of([r.verdict for r in results])
    return replace(worst, verdict=verdict, p=max(ps, default=None), notes=(*notes, *worst.notes))


def _against(test: ClaimTest, rival: str | None, group: list[ClaimCell], found: Quantities) -> TestResult:
    """The test against one rival (or none), over organisms."""
    level = 1 - ALPHA / len(group) if test.over.startswith("some") else 1 - ALPHA
    left = Left()
    if test.over == "average":
        group, left = averaged(group)
    each = tuple(judged(test, found, cell, level) for cell in group)
    seeds, alone = min(cell.runs for cell in group), [cell.name for cell in group if cell.requests_only]
    few = not test.organisms and len(group) < ORGANISMS
    if test.over == "average" and not few:
        decider, verdict = average(test, group), None
    else:
        verdict = over_organisms("every" if test.over == "average" else test.over, [one.verdict for one in each])
        decider = _deciding(test, each)
    verdict = decider.verdict if verdict is None else verdict
    if (seeds < FEW and not alone) or few:
        verdict = "undecided"
    needs = _needs(test, group, decider, seeds, few) if verdict == "undecided" else None
    name = f"{decider.name}, against {rival}" if rival else decider.name
    p = _joined_p(test, each, decider)
    notes = left.notes
    if odd := [cell.name for cell in group if cell.degenerate]:
        notes = (*notes, f"degenerate in {_some(odd)}: most replies cannot be read")
    if alone:
        over = ": over requests alone" if decider.over_requests else ""
        notes = (*notes, f"fewer than {FEW} runs in {len(alone)} of {len(group)} ({_some(alone)}){over}")
    return TestResult(
        test, verdict, name, decider.effect, decider.low, decider.high, seeds, p, needs, each, notes, bool(alone),
        decider.over_requests,
    )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _deciding(test: ClaimTest, each: Sequence[Found]) -> Found:
    """The organism whose figures are shown: the worst for every, the middle one for most, the best for some."""
    ranked = sorted(each, key=lambda one: _favour(test, one.verdict, one.effect))
    if test.over == "most":
        return ranked[(len(ranked) - 1) // 2]
    return ranked[-1] if test.over.startswith("some") else ranked[0]


def _favour(test: ClaimTest, verdict: ClaimVerdict, effect: float) -> tuple[int, float]:
    """How much speaks for a claim: first the verdict, then the effect."""
    order: tuple[ClaimVerdict, ...] = ("not run", "reversed", "absent", "degenerate", "undecided", "reproduced")
    if test.expect in ("within", "holds_zero"):
        return order.index(verdict), -abs(effect)
    return order.index(verdict), -effect if test.expect in ("below", "at_most", "not_above") else effect


def _joined_p(test: ClaimTest, each: Sequence[Found], decider: Found) -> float | None:
    """One p for the test: that it fails to hold in as many organisms as the claim needs."""
    if test.over == "average" and decider.name.startswith("average"):
        return decider.p
    ps = [one.p if one.side * decider.side > 0 else 1.0 for one in each if one.p is not None]
    if len(ps) < len(each):
        return None
    least = {"most": len(ps) // 2 + 1, "some": 1, "some_not_every": 1}.get(test.over, len(ps))
    return partial_conjunction_p(ps, least)


def _needs(test: ClaimTest, group: list[ClaimCell], decider: Found, seeds: int, few: bool) -> Needs:
    """How many seeds (or organisms) would decide, by the power to find the margin that the claim states."""
    if few:
        return Needs(ORGANISMS, "organisms")
    if seeds < FEW:
        return Needs(ENOUGH, "seeds")
    if test.expect == "varies":
        return Needs(_seeds_for_spread(decider.effect, test.by, seeds), "seeds")
    effect = test.by if test.expect in DIFFERENCES and test.by else LEVEL_MARGIN
    values = list(decider.by_seed.values())
    if len(values) < 2:
        return Needs(ENOUGH, "seeds")
    count = seeds_needed(float(np.std(values, ddof=1)), effect)
    spare = max(cell.spare for cell in group)
    if count is not None and count <= len(values) and spare:
        # Seeds hardly differ: the interval is as wide as so few requests leave it.
        requests = Z * Z / spare - Z * Z
        return Needs(math.ceil(requests * max(1.05, (decider.high - decider.low) / 2 / effect) ** 2), "requests")
    wanted = None if count is None else max(count, len(values) + 1)
    return Needs(wanted, "organisms" if test.over == "average" and len(group) >= SAMPLE else "seeds")


def _seeds_for_spread(deviation: float, bound: float, seeds: int) -> int | None:
    """Seeds with which the interval of such a deviation would no longer hold the bound."""
    for count in range(seeds + 1, MOST_SEEDS + 1):
        low, high = (deviation * np.sqrt((count - 1) / chi2_quantile(q, count - 1)) for q in (1 - ALPHA / 2, ALPHA / 2))
        if low >= bound or high < bound:
            return count
    return None


def _over_runs(test: ClaimTest, evidence: Evidence, file: ClaimsFile, found: Quantities) -> TestResult:
    """Two modes, or a correlation, over all runs of the arms in all organisms together."""
    x: list[float] = []
    y: list[float] = []
    seeds: set[Key] = set()
    named = [o for o in evidence.organisms if any(o.matches(wanted) for wanted in test.organisms)]
    for organism in named if test.organisms else evidence.counted:
        for arm in present(test, organism, file):
            left = found.of_arm(organism, arm, test.quantity, test.at)
            right = found.of_arm(organism, arm, test.with_quantity, test.at) if test.with_quantity else left
            shared = [key for key in left if key in right]
            x += [float(left[key][0]) for key in shared]
            y += [float(right[key][0]) for key in shared]
            seeds |= set(shared)
    if not x:
        arms = " and ".join(arm for arm in test.arms if arm not in test.optional)
        return TestResult(test, "not run", notes=(f"no organism has runs of {arms} with {test.quantity} known",))
    name, count = f"{len(x)} runs", len(seeds)
    if test.expect == "two_modes":
        dip, p = dip_test(x)
        modes: ClaimVerdict = "reproduced" if p <= ALPHA else "absent" if len(x) >= DIP_RUNS else "undecided"
        modes = "undecided" if count < FEW else modes
        needs = Needs(_seeds_for_runs(DIP_RUNS, len(x), count), "seeds") if modes == "undecided" else None
        told = None if count < FEW else p
        return TestResult(test, modes, name, dip, None, None, count, told, needs, notes=(f"dip test: p = {p:.3f}",))
    effect, low, high = rank_correlation(x, y)
    verdict = "undecided" if count < FEW else decide("correlates", test.by, effect, low, high)
    runs = round(3 + (ndtri(1 - ALPHA / 2) * 1.03 / np.arctanh(max(test.by, min(abs(effect), 0.99)))) ** 2)
    needs = Needs(_seeds_for_runs(runs, len(x), count), "seeds") if verdict == "undecided" else None
    p_seeds = None if count < FEW else correlation_p(x, y)
    return TestResult(test, verdict, name, effect, low, high, count, p_seeds, needs)


def _seeds_for_runs(runs: int, have: int, seeds: int) -> int | None:
    """Seeds that make so many runs, as many a seed as now; more than now."""
    count = max(seeds + 1, -(-runs * seeds // have))
    return count if count <= MOST_SEEDS else None
