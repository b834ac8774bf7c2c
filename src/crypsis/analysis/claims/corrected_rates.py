"""AFR by the monitor of scratchpads, raw and corrected for the errors that its card tells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crypsis.analysis.statistics.seed_tests import corrected_rate
from crypsis.analysis.study import Run, Study
from crypsis.analysis.study_files import MONITORS
from crypsis.evaluation.metrics import Estimate
from crypsis.store import read_json
from crypsis.types import visible


@dataclass(frozen=True, slots=True)
class Corrected:
    """AFR of one arm at the last evaluation, over all transcripts of its seeds.

    Attributes:
        monitor: Whose flags they are.
        raw: Share flagged.
        corrected: The true rate behind it, if the monitor errs as when it was measured.
        oracle: AFR by the oracle, None where there is none.
        trained_against: Whether the arm's reward depends on this monitor, so that its known errors no longer hold.
    """

    organism: str
    arm: str
    monitor: str
    raw: float
    corrected: Estimate
    oracle: float | None
    trained_against: bool

    @property
    def as_json(self) -> dict[str, Any]:
        """The entry in ``afr_corrected.json``."""
        found = asdict(self)
        return found | {"corrected": {key: found["corrected"][key] for key in ("mean", "low", "high")}}

    @property
    def shown(self) -> str:
        """The corrected rate in words."""
        found = self.corrected
        if found.mean is None or found.low is None or found.high is None:
            return "unknown: the monitor flags fakers no more than others"
        against = " (trained against)" if self.trained_against else ""
        return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]{against}"


def corrected_rates(study: Study, monitor: str = "scratchpad") -> list[Corrected]:
    """Each organism and arm; empty where cards do not tell the monitor's errors (Rogan and Gladen 1978).

    Where each seed has a monitor of its own, each seed's rate is corrected for its own monitor's errors, and the mean
    is told; a seed without a card leaves its arm out.
    """
    path = study.folder / MONITORS
    cards = read_json(path) if path.exists() else {}
    found = []
    for (organism, arm), runs in study.arms().items():
        parts = [_of_one_card(card, of, monitor) for card, of in _by_card(study, organism, runs, cards, monitor)]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            continue
        n = sum(part.n for part in known)
        raw = sum(part.raw * part.n for part in known) / n
        named = [m.get("monitor") for m in runs[0].config.get("mitigations") or () if isinstance(m, dict)]
        against = any(monitor == one or (isinstance(one, list) and monitor in one) for one in named)
        truths = [truth for part in known for truth in part.truths]
        truth = sum(truths) / len(truths) if truths else None
        estimate = _mean([part.corrected for part in known])
        found.append(Corrected(visible(organism), visible(arm), monitor, raw, estimate, truth, against))
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """The runs that one monitor judges: transcripts, the share flagged, the true share, and what the oracle says."""

    n: int
    raw: float
    corrected: Estimate
    truths: Sequence[float]


def _by_card(
    study: Study, organism: str, runs: Sequence[Run], cards: Mapping[str, Any], monitor: str
) -> Iterator[tuple[Mapping[str, Any], list[Run]]]:
    """The runs of an arm that one card speaks of: all of them, or those of one seed."""
    of = study.config.get("monitors_from") or organism
    shared = cards.get(organism) or cards.get(of)
    if shared:
        yield shared.get(monitor) or {}, list(runs)
        return
    own = {
        (card.get("organism"), card.get("runs_seed")): card
        for named in cards.values()
        if (card := named.get(monitor)) is not None and card.get("runs_seed") is not None
    }
    for run in runs:
        yield own.get((organism, run.seed)) or own.get((of, run.seed)) or {}, [run]


def _of_one_card(card: Mapping[str, Any], runs: Sequence[Run], monitor: str) -> _Part | None:
    """The rate of some runs, corrected for the errors of a card; None where card or runs do not tell."""
    rates = [card.get(key) for key in ("true_positive_rate", "false_positive_rate", "n_test", "share_faking")]
    tallies = [run.evaluations[max(run.evaluations)] for run in runs]
    tallies = [tally for tally in tallies if tally.mean(f"afr_{monitor}") is not None]
    if not tallies or not all(isinstance(rate, (int, float)) for rate in rates):
        return None
    recall, alarms, tested, faking = (float(rate) for rate in rates if rate is not None)
    n = int(sum(tally.bottom[f"afr_{monitor}"].sum() for tally in tallies))
    raw = sum(float(tally.top[f"afr_{monitor}"].sum()) for tally in tallies) / n
    corrected = corrected_rate(
        Estimate(raw, None, None, n), recall, alarms, round(tested * faking), round(tested * (1 - faking))
    )
    return _Part(n, raw, corrected, [mean for tally in tallies if (mean := tally.mean("afr_oracle")) is not None])


def _mean(rates: Sequence[Estimate]) -> Estimate:
    """The mean of rates whose errors are independent; unknown where one is. Over transcripts, not over seeds."""
    if len(rates) == 1:
        return rates[0]
    known = [(r.mean, r.low, r.high) for r in rates if r.mean is not None and r.low is not None and r.high is not None]
    if len(known) < len(rates):
        return Estimate(None, None, None, 0)
    mean = sum(rate for rate, _, _ in known) / len(known)
    below = math.hypot(*(rate - low for rate, low, _ in known)) / len(known)
    above = math.hypot(*(high - rate for rate, _, high in known)) / len(known)
    return Estimate(mean, mean - below, mean + above, sum(rate.n for rate in rates))
