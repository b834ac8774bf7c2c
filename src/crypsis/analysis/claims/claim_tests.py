"""One test of a claim on the evidence: which organisms and arms it compares, and what comes out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crypsis.analysis.claims.evidence import Evidence, Key, MeasuredOrganism
from crypsis.analysis.claims.quantities import Quantities, Values, limits
from crypsis.analysis.claims.schema import START, ClaimsFile, ClaimTest, Condition
from crypsis.analysis.claims.verdicts import ClaimVerdict, all_of, decide
from crypsis.analysis.statistics.bootstrap import Pooled, pool, pool_difference, pool_requests
from crypsis.analysis.statistics.seed_tests import deviation_interval, paired_p, unpaired_p
from crypsis.arrays import Floats
from crypsis.config import digest


@dataclass(frozen=True, slots=True)
class ClaimCell:
    """A test's quantity in one organism.

    Attributes:
        name: The organism, or the two that are compared.
        values: Values under all resamples, keyed by seed.
        spare: Room for what the requests cannot exclude.
        bounds: What the quantity can be at least and at most.
        also: Verdicts on what else must hold.
        imported: Whether the runs are others': with a single one, the interval over requests decides.
        rivals: In others' runs, those whose mean is already subtracted, shape [1 + RESAMPLES, runs].
    """

    name: str
    values: Values
    spare: float
    bounds: tuple[float, float]
    also: tuple[ClaimVerdict, ...] = ()
    imported: bool = False
    rivals: Floats | None = None

    @property
    def runs(self) -> int:
        """The fewest on either side."""
        return len(self.values) if self.rivals is None else min(len(self.values), self.rivals.shape[1])

    @property
    def requests_only(self) -> bool:
        """Whether a single run decides, so that the interval is over requests alone."""
        return self.imported and self.runs < 2

    def pooled(self, level: float) -> Pooled:
        """The quantity over runs and requests."""
        if self.requests_only:
            return pool_requests(self.draws, level, self.spare)
        if self.rivals is not None:
            return pool_difference(self.draws + self.rivals.mean(axis=1)[:, None], self.rivals, level, self.spare)
        return pool([self.draws], level, self.spare)

    @property
    def p(self) -> float | None:
        """The p value of a test that the quantity is 0 over runs: paired by seed, or Welch's if nothing is paired."""
        values = list(self.by_seed.values())
        if self.rivals is None:
            return paired_p(values)
        rivals = self.rivals[0]
        return unpaired_p([value + float(rivals.mean()) for value in values], [float(value) for value in rivals])

    @property
    def draws(self) -> Floats:
        """Shape [1 + RESAMPLES, seeds]."""
        return np.stack(list(self.values.values()), axis=1)

    @property
    def by_seed(self) -> dict[Key, float]:
        """The estimate of each seed."""
        return {key: float(value[0]) for key, value in self.values.items()}

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.by_seed.values())))


@dataclass(frozen=True, slots=True)
class Found:
    """A test's quantity with its interval and verdict, in one organism or on average.

    Attributes:
        name: The organism.
        verdict: Decided by ``verdicts.decide``.
        effect: The estimate; NaN of a spread between seeds where there is one.
        low: Lower end of the 95 % interval, None with a single seed.
        high: Upper end.
        by_seed: The estimate of each seed.
        p: The p value of a paired test over seeds, where the test is about a difference.
    """

    name: str
    verdict: ClaimVerdict
    effect: float
    low: float | None
    high: float | None
    by_seed: dict[Key, float]
    p: float | None = None


class LackingError(Exception):
    """Why a test cannot be run; its message says it."""


def judged(test: ClaimTest, quantities: Quantities, cell: ClaimCell, level: float) -> Found:
    """The verdict on one organism."""
    by_seed = cell.by_seed
    if test.expect == "varies":
        ends: Pooled = _spread(quantities, cell, level)
    else:
        ends = clipped(cell.pooled(level), cell.bounds)
    verdict = all_of([decide(test.expect, test.by, ends.mean, ends.low, ends.high), *cell.also])
    compared = bool(test.against or test.against_organisms or test.at == "change")
    p = cell.p if compared and test.expect in ("above", "below") else None
    return Found(cell.name, verdict, ends.mean, ends.low, ends.high, by_seed, p)


def clipped(found: Pooled, bounds: tuple[float, float]) -> Pooled:
    """The interval within what the quantity can be."""
    if found.low is None or found.high is None:
        return found
    return Pooled(found.mean, max(bounds[0], found.low), min(bounds[1], found.high), found.members)


def cells(
    test: ClaimTest, rival: str | None, evidence: Evidence, file: ClaimsFile, found: Quantities
) -> list[ClaimCell]:
    """The test's quantity in each organism that takes part.

    Args:
        test: The test.
        rival: The arm that is subtracted, if any.
        evidence: Runs and measured organisms.
        file: The claims, for the names of arms.
        found: Values of quantities.

    Raises:
        LackingError: An organism that the test names is not there, or no organism has what it needs.
    """
    choose = _named if test.organisms else _open
    chosen = list(choose(test, rival, evidence, file, found))
    kept = [
        cell
        for cell, organism in chosen
        if (test.where is None or _holds(test.where, organism, test, found, file))
        and (rival is None or test.rivals_comply is None or _complies(organism, rival, test.rivals_comply, found))
    ]
    if not chosen:
        raise LackingError(f"no organism has {_needed(test, rival)}")
    if not kept and test.where is not None:
        bound = f"{test.where.quantity} {test.where.expect.replace('_', ' ')} {test.where.by:g}"
        raise LackingError(f"no organism has {bound} at '{test.where.at}'")
    return kept


def present(test: ClaimTest, organism: MeasuredOrganism, file: ClaimsFile) -> list[str]:
    """The test's arms that an organism has; empty if it lacks one that is not optional."""
    have = [arm for arm in test.arms if organism.units(arm, file)]
    return have if all(arm in have or arm in test.optional for arm in test.arms) else []


def _named(
    test: ClaimTest, rival: str | None, evidence: Evidence, file: ClaimsFile, found: Quantities
) -> Iterator[tuple[ClaimCell, MeasuredOrganism]]:
    """One cell for each organism that the test names."""
    others: list[dict[str, Any] | None] = [*test.against_organisms] or [None] * len(test.organisms)
    for wanted, other in zip(test.organisms, others, strict=True):
        left = [o for o in evidence.organisms if o.matches(wanted)]
        right = [o for o in evidence.organisms if o.matches(other)] if other is not None else [None]
        pairs = itertools.product(left, right)
        same = [pair for pair in pairs if pair[1] is None or pair[0].settings == pair[1].settings]
        made = [(cell, pair[0]) for pair in same if (cell := _cell(test, pair[0], pair[1], rival, file, found))]
        if not made:
            names = " and ".join(_spelt(spec) for spec in (wanted, other) if spec is not None)
            raise LackingError(f"{names}: lacks {_needed(test, rival)}")
        yield max(made, key=lambda pair: len(pair[0].values))


def _open(
    test: ClaimTest, rival: str | None, evidence: Evidence, file: ClaimsFile, found: Quantities
) -> list[tuple[ClaimCell, MeasuredOrganism]]:
    """One cell for each recipe made to fake; of several settings the one with most seeds, the first of equals.

    The moment when AFR has gone is looked up where evaluations are most frequent.
    """
    best: dict[str, tuple[tuple[int, int], ClaimCell, MeasuredOrganism]] = {}
    for organism in evidence.organisms:
        cell = _cell(test, organism, None, rival, file, found) if organism.fakes else None
        if cell:
            recipe = digest(organism.recipe)
            weight = _evaluations(organism, test.arms, file) if test.at == "after_afr" else 0, len(cell.values)
            if recipe not in best or weight > best[recipe][0]:
                best[recipe] = weight, cell, organism
    return [(cell, organism) for _, cell, organism in best.values()]


def _evaluations(organism: MeasuredOrganism, arms: Sequence[str], file: ClaimsFile) -> int:
    """How many evaluations a run of these arms has."""
    return max(len(unit.evaluations) for arm in arms for unit in organism.units(arm, file).values())


def _cell(
    test: ClaimTest,
    organism: MeasuredOrganism,
    other: MeasuredOrganism | None,
    rival: str | None,
    file: ClaimsFile,
    found: Quantities,
) -> ClaimCell | None:
    """The quantity of one organism, less that of the rival arm or of the other organism; None where there is none."""
    arms = present(test, organism, file)
    if not arms:
        return None
    values = found.of_arms(organism, arms, test.quantity, test.at)
    name, spare = organism.name, found.spare(organism, arms, test.quantity)
    against: Values | None = None
    if rival is not None:
        against = found.of_arm(organism, rival, test.quantity, test.at)
    if other is not None:
        against = found.of_arms(other, present(test, other, file), test.quantity, test.at)
        name = f"{name} − {other.name}"
    rivals = None
    if against is not None and organism.imported:
        values, rivals = _minus_mean(values, against)
    elif against is not None:
        values = _minus(values, against)
    if not values:
        return None
    also = tuple(_condition(condition, organism, arms, found) for condition in test.also)
    difference = rival is not None or other is not None or test.at == "change"
    return ClaimCell(name, values, spare, limits(test.quantity, difference), also, organism.imported, rivals)


def _minus(left: Values, right: Values) -> Values:
    """Paired by seed, and by request because all are resampled alike."""
    return {key: left[key] - right[key] for key in left if key in right}


def _minus_mean(left: Values, right: Values) -> tuple[Values, Floats | None]:
    """Less the mean of all runs of the other side, which is given too; paired by request only."""
    if not right:
        return {}, None
    rivals = np.stack(list(right.values()), axis=1)
    return {key: value - rivals.mean(axis=1) for key, value in left.items()}, rivals


def _condition(
    condition: Condition, organism: MeasuredOrganism, arms: Sequence[str], found: Quantities
) -> ClaimVerdict:
    values = found.of_arms(organism, arms, condition.quantity, condition.at)
    if not values:
        return "not run"
    draws = np.stack(list(values.values()), axis=1)
    bounds = limits(condition.quantity, condition.at == "change")
    spare = found.spare(organism, arms, condition.quantity)
    alone = organism.imported and len(values) < 2
    ends = clipped(pool_requests(draws, spare=spare) if alone else pool([draws], spare=spare), bounds)
    return decide(condition.expect, condition.by, ends.mean, ends.low, ends.high)


def _holds(where: Condition, organism: MeasuredOrganism, test: ClaimTest, found: Quantities, file: ClaimsFile) -> bool:
    """Whether an organism takes part: what its mean over seeds says, without regard to the interval."""
    values = found.of_arms(organism, present(test, organism, file), where.quantity, where.at)
    mean = float(np.mean([value[0] for value in values.values()])) if values else float("nan")
    return decide(where.expect, where.by, mean, mean, mean) == "reproduced"


def _complies(organism: MeasuredOrganism, rival: str, least: float, found: Quantities) -> bool:
    """Whether an arm has kept what it was trained for."""
    values = found.of_arm(organism, rival, "compliance_monitored", "last")
    return bool(values) and float(np.mean([value[0] for value in values.values()])) >= least


def _spread(quantities: Quantities, cell: ClaimCell, level: float) -> Pooled:
    """Standard deviation between seeds, less what the requests alone bring."""
    values = list(cell.by_seed.values())
    if len(values) < 2:
        return Pooled(math.nan, None, None, len(values))
    estimate, low, high = deviation_interval(values, quantities.noise(cell.values), level)
    return Pooled(estimate, low, high, len(values))


def _needed(test: ClaimTest, rival: str | None) -> str:
    """What an organism must have, in words."""
    if test.arms == [START]:
        return f"an evaluation before RL with {test.quantity} known"
    arms = [arm for arm in test.arms if arm not in test.optional] + ([rival] if rival else [])
    moment = "" if test.at in ("first", "last", "mean") else f" at '{test.at}'"
    return f"runs of {' and '.join(arms)} with {test.quantity} known{moment}"


def _spelt(spec: dict[str, object]) -> str:
    return " ".join(str(value) for value in spec.values())
