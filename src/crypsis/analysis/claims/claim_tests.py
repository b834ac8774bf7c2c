"""One test of a claim on the evidence: which organisms and arms it compares, and what comes out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import chdtrc

from crypsis.analysis.claims.evidence import Evidence, Key, MeasuredOrganism
from crypsis.analysis.claims.quantities import Quantities, Values, limits
from crypsis.analysis.claims.schema import START, ClaimsFile, ClaimTest, Condition
from crypsis.analysis.claims.verdicts import ClaimVerdict, all_of, decide
from crypsis.analysis.statistics.pooling import FEW, Pooled, p_value, pool, pool_difference
from crypsis.analysis.statistics.seed_tests import ALPHA, deviation_interval
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
        also: What else must hold, each with its quantity in the same organism.
        imported: Whether the runs are others': of fewer than ``FEW``, the interval over requests decides.
        rivals: In others' runs, those whose mean is already subtracted, shape [1 + RESAMPLES, runs].
        degenerate: Whether the replies that are compared cannot be read.
        shared: Whether a seed is a base of its own, which all organisms share.
    """

    name: str
    values: Values
    spare: float
    bounds: tuple[float, float]
    also: tuple[tuple[Condition, ClaimCell], ...] = ()
    imported: bool = False
    rivals: Floats | None = None
    degenerate: bool = False
    shared: bool = False

    @property
    def runs(self) -> int:
        """The fewest on either side."""
        return len(self.values) if self.rivals is None else min(len(self.values), self.rivals.shape[1])

    @property
    def requests_only(self) -> bool:
        """Whether so few runs decide that the interval is over requests alone."""
        return self.imported and self.runs < FEW

    def pooled(self, level: float) -> Pooled:
        """The quantity over runs and requests."""
        if self.rivals is not None:
            return pool_difference(self.draws + self.rivals.mean(axis=1)[:, None], self.rivals, level, self.spare)
        return pool([self.draws], level, self.spare)

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
        effect: The estimate; NaN of a spread between fewer than ``FEW`` seeds.
        low: Lower end of the 95 % interval; NaN with ``effect``.
        high: Upper end.
        by_seed: The estimate of each seed.
        p: One minus the level at which the interval would end at what the claim is told from; None with few seeds.
        side: How far the estimate lies on the claim's side of that.
        over_requests: Whether the interval is over requests alone.
    """

    name: str
    verdict: ClaimVerdict
    effect: float
    low: float
    high: float
    by_seed: dict[Key, float]
    p: float | None = None
    side: float = 0.0
    over_requests: bool = False


class LackingError(Exception):
    """Why a test cannot be run; its message says it."""


def judged(test: ClaimTest, quantities: Quantities, cell: ClaimCell, level: float) -> Found:
    """The verdict on one organism by an interval of a level; the interval that is told is that of 95 %."""
    if test.expect == "varies":
        return _spread(test, quantities, cell, level)
    found = found_by(test, cell.name, cell.pooled(level), cell, cell.by_seed, level)
    told = clipped(cell.pooled(1 - ALPHA), cell.bounds)
    return replace(found, low=told.low, high=told.high)


def found_by(
    test: ClaimTest, name: str, pooled: Pooled, cell: ClaimCell, by_seed: dict[Key, float], level: float = 1 - ALPHA
) -> Found:
    """What an interval says of a test.

    Args:
        test: The test.
        name: The organism, or the average.
        pooled: The quantity over seeds, or over organisms.
        cell: For what else must hold, the bounds, and whether few runs decide.
        by_seed: The estimate of each unit.
        level: Level of the interval, and of those of what else must hold.
    """
    ends = clipped(pooled, cell.bounds)
    others = [_also(condition, own, level) for condition, own in cell.also]
    decided = _decided(test, ends, cell)
    verdict = "degenerate" if cell.degenerate else all_of([decided, *(said for said, _ in others)])
    p, side = _p_and_side(test, pooled)
    ps = [p, *(own for _, own in others)]
    joint = None if None in ps else max(one for one in ps if one is not None)
    return Found(name, verdict, ends.mean, ends.low, ends.high, by_seed, joint, side, ends.over_requests)


def _decided(expected: Condition, ends: Pooled, cell: ClaimCell) -> ClaimVerdict:
    """The verdict of an interval; one over requests alone decides nothing, unless the runs are others'."""
    known = cell.imported or not ends.over_requests
    return decide(expected.expect, expected.by, ends.mean, *((ends.low, ends.high) if known else (None, None)))


def _also(condition: Condition, cell: ClaimCell, level: float) -> tuple[ClaimVerdict, float | None]:
    """The verdict on what else must hold and its p value; 1 where the estimate lies on the other side."""
    if not cell.values:
        return "not run", None
    pooled = cell.pooled(level)
    p, side = _p_and_side(condition, pooled)
    return _decided(condition, clipped(pooled, cell.bounds), cell), p if p is None or side > 0 else 1.0


def _p_and_side(expected: Condition, pooled: Pooled) -> tuple[float | None, float]:
    """The p value of what the claim is told from (0 for a difference, the bound for a level), and how far it is."""
    mean, by = pooled.mean, expected.by
    apart = {
        "above": [mean],
        "below": [-mean],
        "at_least": [mean - by],
        "at_most": [by - mean],
        "not_above": [by - mean],
        "within": [by - mean, by + mean],
        "holds_zero": [-abs(mean)],
    }[expected.expect]
    # Where nothing is told from anything, nothing has a p value.
    if pooled.over_requests or expected.expect == "holds_zero":
        return None, min(apart)
    return max(p_value(one, pooled.fixed, pooled.sampled) for one in apart), min(apart)


def clipped(found: Pooled, bounds: tuple[float, float]) -> Pooled:
    """The interval within what the quantity can be."""
    return replace(found, low=max(bounds[0], found.low), high=min(bounds[1], found.high))


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
    """One cell for each recipe of the population; of several settings the one with most seeds, the first of equals.

    The moment when AFR has gone is looked up where evaluations are most frequent.
    """
    best: dict[str, tuple[tuple[int, int], ClaimCell, MeasuredOrganism]] = {}
    for organism in evidence.counted:
        cell = _cell(test, organism, None, rival, file, found)
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
    also = tuple((condition, _condition(condition, organism, arms, found)) for condition in test.also)
    difference = rival is not None or other is not None or test.at == "change"
    odd = any(found.degenerate(organism, arm, test.at) for arm in (*arms, *([rival] if rival else ())))
    if other is not None:
        odd = odd or any(found.degenerate(other, arm, test.at) for arm in present(test, other, file))
    bounds, shared = limits(test.quantity, difference), organism.repeats == "bases"
    return ClaimCell(name, values, spare, bounds, also, organism.imported, rivals, odd, shared)


def _minus(left: Values, right: Values) -> Values:
    """Paired by seed, and by request because all are resampled alike."""
    return {key: left[key] - right[key] for key in left if key in right}


def _minus_mean(left: Values, right: Values) -> tuple[Values, Floats | None]:
    """Less the mean of all runs of the other side, which is given too; paired by request only."""
    if not right:
        return {}, None
    rivals = np.stack(list(right.values()), axis=1)
    return {key: value - rivals.mean(axis=1) for key, value in left.items()}, rivals


def _condition(condition: Condition, organism: MeasuredOrganism, arms: Sequence[str], found: Quantities) -> ClaimCell:
    """The quantity of what else must hold."""
    values = found.of_arms(organism, arms, condition.quantity, condition.at)
    spare = found.spare(organism, arms, condition.quantity) if values else 0.0
    bounds = limits(condition.quantity, condition.at == "change")
    return ClaimCell(organism.name, values, spare, bounds, imported=organism.imported)


def _holds(where: Condition, organism: MeasuredOrganism, test: ClaimTest, found: Quantities, file: ClaimsFile) -> bool:
    """Whether an organism takes part: what its mean over seeds says, without regard to the interval."""
    values = found.of_arms(organism, present(test, organism, file), where.quantity, where.at)
    mean = float(np.mean([value[0] for value in values.values()])) if values else float("nan")
    return decide(where.expect, where.by, mean, mean, mean) == "reproduced"


def _complies(organism: MeasuredOrganism, rival: str, least: float, found: Quantities) -> bool:
    """Whether an arm has kept what it was trained for."""
    values = found.of_arm(organism, rival, "compliance_monitored", "last")
    return bool(values) and float(np.mean([value[0] for value in values.values()])) >= least


def _spread(test: ClaimTest, quantities: Quantities, cell: ClaimCell, level: float) -> Found:
    """Standard deviation between seeds, less what the requests alone bring, beside the bound of the claim."""
    values = list(cell.by_seed.values())
    if len(values) < FEW:
        return Found(cell.name, "undecided", math.nan, math.nan, math.nan, cell.by_seed)
    noise = quantities.noise(cell.values)
    decided = decide(test.expect, test.by, *deviation_interval(values, noise, level))
    others = [_also(condition, own, level)[0] for condition, own in cell.also]
    verdict: ClaimVerdict = "degenerate" if cell.degenerate else all_of([decided, *others])
    estimate, low, high = deviation_interval(values, noise, 1 - ALPHA)
    squares = (len(values) - 1) * float(np.var(values, ddof=1)) / (test.by**2 + noise)
    tail = float(chdtrc(len(values) - 1, squares))
    return Found(cell.name, verdict, estimate, low, high, cell.by_seed, 2 * min(tail, 1 - tail), estimate - test.by)


def _needed(test: ClaimTest, rival: str | None) -> str:
    """What an organism must have, in words."""
    if test.arms == [START]:
        return f"an evaluation before RL with {test.quantity} known"
    arms = [arm for arm in test.arms if arm not in test.optional] + ([rival] if rival else [])
    moment = "" if test.at in ("first", "last", "mean") else f" at '{test.at}'"
    return f"runs of {' and '.join(arms)} with {test.quantity} known{moment}"


def _spelt(spec: dict[str, object]) -> str:
    return " ".join(str(value) for value in spec.values())
