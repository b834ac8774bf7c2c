"""How many seeds each claim needs: `python -m crypsis.analysis.claims.power docs/results/scorecard_first.json …`.

Reads scorecards that were written before and takes from them only how much units differ, never what came out: the
effect to be found is the margin that the claim states. A claim about every organism is as hard as the organism whose
seeds differ most, about most as the middle one, about some as the one that differs least; an average over three or more
organisms has organisms as units.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

from crypsis.analysis.claims.averages import SAMPLE
from crypsis.analysis.claims.schema import DIFFERENCES, Claim, ClaimTest, built_in
from crypsis.analysis.claims.scorecard import LEVEL_MARGIN
from crypsis.analysis.claims.verdicts import ORGANISMS
from crypsis.analysis.statistics.pooling import FEW, degrees
from crypsis.analysis.statistics.seed_tests import ALPHA, POWER, seeds_needed
from crypsis.types import UserError

SEEDS = 8
"""Seeds for which the smallest effect is told."""
NOT_OURS = ("evader", "misleader")
"""Parts of labels of organisms that claims about the paper's do not count."""


@dataclass(frozen=True, slots=True)
class Power:
    """What one test of a claim needs.

    Attributes:
        claim: Its id.
        test: What is tested, in words.
        unit: ``seeds`` or ``organisms``; ``runs`` (two modes, correlations, spreads) have no power calculation.
        deviation: Standard deviation between units; NaN where nothing tells it.
        margin: The effect to be found.
        needed: Units for 80 % power at 5 %; None for more than can be run.
        strict: The same at 5 % divided by the number of claims, the hardest case of Holm's correction.
        smallest: The effect that is found with 80 % by ``SEEDS`` seeds, or by the organisms that there are.
        known: Seeds or organisms behind the deviation.
    """

    claim: str
    test: str
    unit: str
    deviation: float
    margin: float
    needed: int | None
    strict: int | None
    smallest: float
    known: int


def powers(scorecards: Sequence[Sequence[Mapping[str, Any]]]) -> list[Power]:
    """Each deciding test of the built-in claims.

    Args:
        scorecards: Entries as ``crypsis scorecard --out`` writes them; of a claim that several have, organisms are
            put together.
    """
    claims = built_in().claims
    return [
        found
        for claim in claims
        for place, test in enumerate(claim.tests)
        if test.decides and (found := _power(claim, place, test, scorecards, len(claims)))
    ]


def _power(
    claim: Claim, place: int, test: ClaimTest, scorecards: Sequence[Sequence[Mapping[str, Any]]], claims: int
) -> Power | None:
    told = [entry["tests"][place] for entries in scorecards for entry in entries if entry["id"] == claim.id]
    if not told:
        return None
    if test.over == "runs" or test.expect == "varies":
        return Power(claim.id, str(told[0]["asked"]), "runs", float("nan"), test.by, None, None, float("nan"), 0)
    seeds = _by_organism(claim, test, told)
    margin = test.by if test.expect in DIFFERENCES and test.by else LEVEL_MARGIN
    unit, deviation, units = _unit(test, seeds)
    if np.isnan(deviation):
        return Power(claim.id, str(told[0]["asked"]), unit, deviation, margin, None, None, float("nan"), units)
    needed = seeds_needed(deviation, margin)
    strict = seeds_needed(deviation, margin, alpha=ALPHA / claims)
    smallest = effect_found(units if unit == "organisms" else SEEDS, deviation)
    return Power(claim.id, str(told[0]["asked"]), unit, deviation, margin, needed, strict, smallest, units)


def _by_organism(claim: Claim, test: ClaimTest, told: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Values by seed of each organism that the claim counts today."""
    found: dict[str, list[float]] = {}
    for part in told:
        for organism in part["organisms"]:
            name = str(organism["organism"])
            ours = any(mark in name for mark in NOT_OURS)
            wanted = bool(test.organisms) or ours == (claim.population == "silent") or claim.population == "all"
            if wanted and not name.startswith("average"):
                found.setdefault(name, []).extend(float(value) for value in organism["by_seed"].values())
    return {name: values for name, values in found.items() if len(values) > 1}


def _unit(test: ClaimTest, seeds: Mapping[str, Sequence[float]]) -> tuple[str, float, int]:
    """The unit of a test, how much units differ, and how many tell it."""
    if test.over == "average" and len(seeds) >= SAMPLE:
        means = [float(np.mean(values)) for values in seeds.values()]
        return "organisms", float(np.std(means, ddof=1)), len(means)
    spreads = sorted(float(np.std(values, ddof=1)) for values in seeds.values() if len(values) >= FEW)
    known = sum(map(len, seeds.values()))
    if not spreads or (not test.organisms and len(spreads) < ORGANISMS):
        return "seeds", float("nan"), known
    if test.over == "average":
        return "seeds", float(np.sqrt(np.mean(np.square(spreads)) / len(spreads))), known
    at = {"most": (len(spreads) - 1) // 2, "some": 0, "some_not_every": 0}.get(test.over, len(spreads) - 1)
    return "seeds", spreads[at], known


def effect_found(units: int, deviation: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """The effect that so many units find with the given power, by the interval of ``pooling.pool``.

    Args:
        units: Seeds, or organisms; at least ``FEW``, NaN otherwise.
        deviation: Standard deviation between them.
        power: Chance to find it.
        alpha: Two-sided level.
    """
    if units < FEW:
        return float("nan")
    critical = stats.t.ppf(1 - alpha / 2, degrees(units))
    shift = optimize.brentq(lambda x: stats.nct.sf(critical, units - 1, x) - power, 0.0, 60.0)
    return float(shift) * deviation / float(np.sqrt(units))


def table(found: Sequence[Power]) -> list[str]:
    """Lines of a Markdown table; effects in points (hundredths), tokens for C11."""
    lines = [
        f"| claim | unit (known) | deviation | margin: units for 80 %, Holm at worst | smallest at {SEEDS} seeds |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        cells = [
            one.claim,
            f"{one.unit} ({one.known})" if one.known else one.unit,
            _points(one.deviation),
            f"{_points(one.margin)}: {_count(one, one.needed)}, {_count(one, one.strict)}",
            _points(one.smallest),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _count(one: Power, number: int | None) -> str:
    if np.isnan(one.deviation):
        return "–"
    return "> 200" if number is None else str(number)


def _points(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def main() -> None:
    """Prints the table of docs/scorecard.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("scorecards", nargs="+", type=Path, help="files that `crypsis scorecard --out` wrote, .json")
    scorecards = []
    for path in parser.parse_args().scorecards:
        try:
            scorecards.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no scorecard ({error})") from None
    print("\n".join(table(powers(scorecards))))


if __name__ == "__main__":
    main()
