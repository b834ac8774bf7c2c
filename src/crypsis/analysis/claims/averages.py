"""Averages over organisms: which of them take part, over which seeds, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crypsis.analysis.claims.claim_tests import ClaimCell, Found, found_by
from crypsis.analysis.claims.evidence import Key
from crypsis.analysis.claims.schema import ClaimTest
from crypsis.analysis.statistics.pooling import FEW, pool

SAMPLE = 3
"""Organisms from which an average speaks of others as well; fewer are averaged as they are."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an average does without.

    Attributes:
        few: Organisms with fewer than ``FEW`` seeds.
        apart: Organisms that have too few seeds in common with the others.
        common: Seeds that all the others have, where some have more; 0 if all have the same.
    """

    few: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    common: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """The same in words."""
        notes = [f"without {', '.join(self.few)}: fewer than {FEW} seeds"] if self.few else []
        notes += [f"without {', '.join(self.apart)}: fewer than {FEW} seeds in common"] if self.apart else []
        return (*notes, *([f"over the {self.common} seeds that all organisms have"] if self.common else []))


def averaged(group: Sequence[ClaimCell]) -> tuple[list[ClaimCell], Left]:
    """The organisms that an average can be taken over, and what is left out.

    Where a seed is a base of its own, all organisms are cut to the seeds that all of them have, after those that would
    leave fewer than ``FEW``.
    """
    few = [cell.name for cell in group if len(cell.values) < FEW and not cell.imported]
    kept = [cell for cell in group if cell.name not in few] if len(group) - len(few) >= SAMPLE else list(group)
    few = few if len(kept) < len(group) else []
    if not all(cell.shared for cell in kept):
        return kept, Left(tuple(few))
    apart: list[str] = []
    while len(_common(kept)) < FEW and len(kept) > SAMPLE:
        worst = max(kept, key=lambda cell: len(_common([other for other in kept if other is not cell])))
        apart.append(worst.name)
        kept.remove(worst)
    keys = sorted(_common(kept))
    more = any(len(cell.values) > len(keys) for cell in kept)
    if keys:
        kept = [replace(cell, values={key: cell.values[key] for key in keys}) for cell in kept]
    return kept, Left(tuple(few), tuple(apart), len(keys) if more else 0)


def _common(group: Sequence[ClaimCell]) -> set[Key]:
    return set.intersection(*(set(cell.values) for cell in group))


def average(test: ClaimTest, group: list[ClaimCell]) -> Found:
    """The mean over organisms, each of which counts the same.

    From ``SAMPLE`` organisms on they stand for others that might have been built, and are the units of the test;
    fewer stand for themselves, and seeds are.

    Args:
        test: The test.
        group: As ``averaged`` gives it: a base that some organism lacks cannot be drawn for all of them.
    """
    sampled = len(group) >= SAMPLE
    spare = max(cell.spare for cell in group)
    keys = sorted(_common(group))
    bases = bool(keys) and all(cell.shared for cell in group)
    pooled = pool([cell.draws for cell in group], spare=spare, sampled=sampled, shared=bases)
    if sampled:
        units = {(0, i): cell.mean for i, cell in enumerate(group)}
    else:
        units = {key: float(np.mean([cell.by_seed[key] for cell in group])) for key in keys}
    name = f"average over {'' if sampled else 'these '}{len(group)} organisms"
    together = replace(
        group[0], also=(), degenerate=any(c.degenerate for c in group), imported=all(c.imported for c in group)
    )
    return found_by(test, name, pooled, together, units)
