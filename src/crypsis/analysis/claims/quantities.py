"""The quantities that claims are about, by seed, under the same resamples of the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crypsis.analysis.claims.evidence import Key, MeasuredOrganism
from crypsis.analysis.claims.schema import AFR_GONE, EARLY, At, ClaimsFile, Quantity
from crypsis.analysis.statistics.bootstrap import request_draws
from crypsis.analysis.summary import is_degenerate
from crypsis.arrays import Floats
from crypsis.evaluation.metrics import Tally, bounds, room

Values = dict[Key, Floats]
"""The quantity itself and then under each resample of the requests, shape [1 + RESAMPLES], keyed by seed."""
Draws = Mapping[int, Floats]
"""The same, keyed by step."""


class Quantities:
    """Values of quantities, each computed once.

    Args:
        file: The claims, whose names of arms are used.
    """

    def __init__(self, file: ClaimsFile) -> None:
        self._file = file
        self._found: dict[tuple[int, str, str], dict[Key, Draws]] = {}

    def of_arms(self, organism: MeasuredOrganism, arms: Sequence[str], quantity: Quantity, at: At) -> Values:
        """The mean over arms, of the seeds that all of them have."""
        each = [self.of_arm(organism, arm, quantity, at) for arm in arms]
        shared = set.intersection(*(set(values) for values in each)) if each else set()
        return {key: np.mean([values[key] for values in each], axis=0) for key in sorted(shared)}

    def of_arm(self, organism: MeasuredOrganism, arm: str, quantity: Quantity, at: At) -> Values:
        """The quantity keyed by seed; seeds on which it is unknown are left out."""
        if quantity == "faking_tokens":
            return self._faking_tokens(organism, arm)
        draws = self._draws(organism, arm, quantity)
        gone = self._draws(organism, arm, "afr") if at == "after_afr" else draws
        values = {key: _moment(steps, at, gone.get(key, {})) for key, steps in draws.items()}
        return {key: value for key, value in values.items() if value is not None and not np.isnan(value[0])}

    def spare(self, organism: MeasuredOrganism, arms: Sequence[str], quantity: Quantity) -> float:
        """Room for what so many requests cannot exclude, where no resample differs; 0 for tokens."""
        if quantity in ("scratchpad_tokens", "faking_tokens"):
            return 0.0
        units = [unit for arm in arms for unit in organism.units(arm, self._file).values()]
        counts = [len(tally.pairs) for unit in units for tally in unit.evaluations.values()]
        return room(min(counts)) if counts else 0.0

    def degenerate(self, organism: MeasuredOrganism, arm: str, at: At) -> bool:
        """Whether an arm's replies cannot be read, at the last evaluation, or at the first if that is looked at."""
        pick = min if at == "first" else max
        ends = [unit.evaluations[pick(unit.evaluations)] for unit in organism.units(arm, self._file).values()]
        shares = [share for tally in ends if (share := tally.mean("unreadable")) is not None]
        return bool(shares) and is_degenerate(float(np.mean(shares)))

    def noise(self, values: Values) -> float:
        """Mean variance that the requests alone bring to a seed's value."""
        return float(np.mean([np.nanvar(value[1:]) for value in values.values()]))

    def _draws(self, organism: MeasuredOrganism, arm: str, quantity: Quantity) -> dict[Key, Draws]:
        """The resampled quantity, keyed by seed and step; all evaluations of an arm are resampled at once."""
        metric = metric_of(organism, quantity)
        cached = (id(organism), arm, metric)
        if cached not in self._found:
            places: list[tuple[Key, int]] = []
            tallies: list[Tally] = []
            for key, unit in organism.units(arm, self._file).items():
                for step, tally in sorted(unit.evaluations.items()):
                    if metric in tally.top and tally.mean(metric) is not None:
                        places.append((key, step))
                        tallies.append(tally)
            by_seed: dict[Key, dict[int, Floats]] = {}
            drawn = request_draws(tallies, metric) if tallies else np.zeros((0, 0))
            for column, (key, step) in enumerate(places):
                by_seed.setdefault(key, {})[step] = drawn[:, column]
            self._found[cached] = {key: steps for key, steps in by_seed.items()}
        return self._found[cached]

    def _faking_tokens(self, organism: MeasuredOrganism, arm: str) -> Values:
        found: Values = {}
        for key, unit in organism.units(arm, self._file).items():
            both = unit.faking_and_not(organism.judge)
            if both is not None:
                draws = request_draws(both, "scratchpad_tokens")
                found[key] = draws[:, 0] - draws[:, 1]
        return found


def metric_of(organism: MeasuredOrganism, quantity: str) -> str:
    """The metric behind a quantity, as ``evaluation.metrics`` calls it; empty where nobody measured it."""
    if quantity == "afr":
        return f"afr_{organism.judge}" if organism.judge else ""
    if quantity == "afr_monitor":
        return f"afr_{organism.monitor}" if organism.monitor else ""
    if quantity == "lying_rate" and organism.judge != "oracle":
        return "lying_rate_monitor"
    return quantity


def limits(quantity: Quantity, difference: bool) -> tuple[float, float]:
    """What a quantity, or a difference of two of them, can be at least and at most."""
    if quantity in ("scratchpad_tokens", "faking_tokens"):
        return -np.inf, np.inf
    least, most = bounds(quantity)
    return (least - most, most - least) if difference else (least, most)


def _moment(steps: Draws, at: At, afr: Draws) -> Floats | None:
    """A quantity at a moment; None where the run has no such moment."""
    known = sorted(steps)
    if not known:
        return None
    if at == "first":
        return steps[known[0]]
    if at == "last":
        return steps[known[-1]]
    if at == "change":
        return steps[known[-1]] - steps[known[0]] if len(known) > 1 else None
    if at == "mean":
        return _mean(steps, known)
    if at == "early":
        later = [step for step in known if step >= EARLY]
        return steps[later[0]] if later else None
    faked = [step for step in sorted(afr) if afr[step][0] > AFR_GONE]
    gone = [step for step in known if step in afr and afr[step][0] <= AFR_GONE and faked and step > faked[0]]
    return steps[gone[0]] if gone else None


def _mean(steps: Draws, known: Sequence[int]) -> Floats:
    """The mean over training, evaluations joined by straight lines."""
    if len(known) == 1:
        return steps[known[0]]
    area: Floats = np.trapezoid(np.stack([steps[step] for step in known]), x=known, axis=0)
    return area / (known[-1] - known[0])
