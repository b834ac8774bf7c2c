"""AFR by the monitor of scratchpads, raw and corrected for the errors that its card tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from crypsis.analysis.statistics.seed_tests import corrected_rate
from crypsis.analysis.study import Study
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
    """Each organism and arm; empty where cards do not tell the monitor's errors (Rogan and Gladen 1978)."""
    path = study.folder / MONITORS
    cards = read_json(path) if path.exists() else {}
    found = []
    for (organism, arm), runs in study.arms().items():
        of = study.config.get("monitors_from") or organism
        card = (cards.get(organism) or cards.get(of) or {}).get(monitor) or {}
        rates = [card.get(key) for key in ("true_positive_rate", "false_positive_rate", "n_test", "share_faking")]
        tallies = [run.evaluations[max(run.evaluations)] for run in runs]
        tallies = [tally for tally in tallies if tally.mean(f"afr_{monitor}") is not None]
        if not tallies or not all(isinstance(rate, (int, float)) for rate in rates):
            continue
        recall, alarms, tested, faking = (float(rate) for rate in rates if rate is not None)
        n = int(sum(tally.bottom[f"afr_{monitor}"].sum() for tally in tallies))
        raw = sum(float(tally.top[f"afr_{monitor}"].sum()) for tally in tallies) / n
        known = [mean for tally in tallies if (mean := tally.mean("afr_oracle")) is not None]
        estimate = corrected_rate(
            Estimate(raw, None, None, n), recall, alarms, round(tested * faking), round(tested * (1 - faking))
        )
        named = [m.get("monitor") for m in runs[0].config.get("mitigations") or () if isinstance(m, dict)]
        against = any(monitor == one or (isinstance(one, list) and monitor in one) for one in named)
        truth = sum(known) / len(known) if known else None
        found.append(Corrected(visible(organism), visible(arm), monitor, raw, estimate, truth, against))
    return found
