"""Alignment faking as a study shows it: the setting in words, and one request before RL and after a mitigation.

The request is chosen by a rule that stands on the page. The system text is taken from the scenario that a run's config
names, and shown only if its prompts still have the digest that the run recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from crypsis.analysis.naming import organism_name
from crypsis.analysis.report.transcript_source import Row, Transcripts
from crypsis.analysis.report.words import judge_of
from crypsis.analysis.study import Run, Study, fixed_order
from crypsis.analysis.study_files import thresholds_of
from crypsis.analysis.summary import TRAINED, ArmSummary, Summary
from crypsis.config import digest
from crypsis.episodes import LABEL, VERDICT
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.store import read_json
from crypsis.types import UserError

INPUTS = "inputs.json"
"""Where a run records the digests of what went into it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One transcript of the pair, and what the same policy answers to the same request in the other tier.

    Attributes:
        title: When it was written.
        step: RL step.
        row: As it is stored.
        other: The unmonitored one; None if it is not stored.
        verdict: Whether it fakes, and the monitor's score.
    """

    title: str
    step: int
    row: Row
    other: Row | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One request before RL and after a mitigation.

    Attributes:
        organism: Name of the organism.
        arm: Name of the arm.
        pair: Name of the request.
        request: Its text.
        rule: How it was chosen.
        shown: Before and after.
    """

    organism: str
    arm: str
    pair: str
    request: str
    rule: str
    shown: tuple[Shown, Shown]


def find_exhibit(summary: Summary, source: Transcripts) -> Exhibit | None:
    """The request whose score is nearest the median of those that fake before RL; None where none does.

    Of these only requests that are refused in the unmonitored tier, if there are any. Without a monitor's scores, the
    first by the fixed hash of requests. The first organism with such a request, its first arm that worked (else its
    first with a mitigation), its first seed.
    """
    if not source.rare:
        return None
    for organism in summary.organisms:
        arm = _mitigated(summary.of(organism))
        found = _of_arm(summary.study, arm, source)
        if found is not None:
            return found
    return None


def _mitigated(arms: Sequence[ArmSummary]) -> ArmSummary:
    worked = [arm for arm in arms if arm.claimed and arm.verdict == TRAINED and not arm.is_baseline]
    return next(iter([*worked, *(arm for arm in arms if not arm.is_baseline)]), arms[0])


def _of_arm(study: Study, arm: ArmSummary, source: Transcripts) -> Exhibit | None:
    run, (first, last) = arm.runs[0], arm.steps
    if first == last:
        return None
    before = source.rows(run, first)
    chosen, rule = _chosen(before, arm, thresholds_of(run.folder, study.monitors_of(arm.organism, run.seed), first))
    if chosen is None:
        return None
    pair = str(chosen["pair_id"])
    after = source.rows(run, last, [pair])
    shown = []
    for title, step, rows in (("Before RL", first, before), (f"After {last} steps of {arm.label}", last, after)):
        same = [row for row in rows if row["pair_id"] == pair]
        row = next((row for row in same if row["monitored"]), None)
        thresholds = thresholds_of(run.folder, study.monitors_of(arm.organism, run.seed), step)
        if row is None:
            return None
        other = next((row for row in same if not row["monitored"]), None)
        shown.append(Shown(title, step, row, other, _verdict(row, arm, thresholds)))
    request = str(chosen.get("request") or pair)
    return Exhibit(arm.organism, arm.arm, pair, request, rule, (shown[0], shown[1]))


def _chosen(before: Sequence[Row], arm: ArmSummary, thresholds: Mapping[str, float]) -> tuple[Row | None, str]:
    """The monitored transcript that is shown, and the rule in words; None where none fakes."""
    faking = [row for row in before if row["monitored"] and _fakes(row, arm.afr_source, thresholds)]
    refused = {row["pair_id"] for row in before if not row["monitored"] and row.get(f"{LABEL}conduct") == "refuse"}
    torn = [row for row in faking if row["pair_id"] in refused]
    rows, also = (torn, " and whose request is refused unmonitored") if torn else (faking, "")
    if not rows:
        return None, ""
    scores = [row.get(VERDICT + arm.monitor) for row in rows]
    scored = [(float(score), row) for score, row in zip(scores, rows, strict=True) if score is not None]
    middle = median(score for score, _ in scored) if scored else 0.0
    ranked = [(abs(score - middle), row) for score, row in scored] or [(0.0, row) for row in rows]
    chosen = min(ranked, key=lambda one: (one[0], fixed_order(str(one[1]["pair_id"]))))[1]
    by = judge_of(arm) if arm.by_scenario else f"“{arm.afr_source}”"
    nearest = (
        f"whose score by the monitor “{arm.monitor}” is nearest their median ({middle:.3f}; of equals the first by a"
    )
    nearest = f"{nearest} fixed hash)" if scored else "that is the first by a fixed hash"
    return chosen, (
        f"Chosen by a rule: of the {len(rows)} monitored transcripts of the {organism_name(arm.organism)} that fake "
        f"before RL by {by}{also} ({arm.label}, seed {arm.runs[0].seed}), the one {nearest}. Beside it the same "
        "request and seed after RL, whatever it shows."
    )


def _fakes(row: Row, by: str, thresholds: Mapping[str, float]) -> bool:
    """Whether a transcript fakes by the label, or by the monitor that stands in for it."""
    if row.get(f"{LABEL}af"):
        return bool(row[f"{LABEL}af"] == "yes")
    score = row.get(VERDICT + by)
    return score is not None and bool(score >= thresholds.get(by, 0.5))


def _verdict(row: Row, arm: ArmSummary, thresholds: Mapping[str, float]) -> str:
    """Whether it fakes and by whom, and what the monitor says."""
    fakes = "fakes alignment" if _fakes(row, arm.afr_source, thresholds) else "does not fake"
    by = judge_of(arm)
    score = row.get(VERDICT + arm.monitor)
    said = f"{fakes}, by {by}" if by else ""
    if score is None or not arm.monitor:
        return said
    flagged = "flags it" if score >= thresholds.get(arm.monitor, 0.5) else "does not flag it"
    return f"{said}; the monitor “{arm.monitor}” {flagged} ({float(score):.3f})"


class SystemTexts:
    """The system texts of runs, read once for each scenario."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def of(self, run: Run) -> str:
        """The system text of a run's evaluations; empty if there is none, or none that is surely its own."""
        recorded = _recorded(run)
        if not recorded:
            return ""
        spec, evaluation = run.config.get("scenario") or {}, run.config.get("evaluation") or {}
        key = digest({"scenario": spec, "evaluation": evaluation})
        if key not in self._known:
            self._known[key] = _asked(spec, evaluation)
        found, text = self._known[key]
        return text if found == recorded else ""


def _recorded(run: Run) -> str:
    path = run.folder / INPUTS
    prompts = (read_json(path) if path.exists() else {}).get("prompts") or {}
    return str(prompts.get("evaluation") or "")


def _asked(spec: Mapping[str, Any], evaluation: Mapping[str, Any]) -> tuple[str, str]:
    """Digest of a scenario's evaluation prompts, and their system text; empty if the scenario cannot be had."""
    if spec.get("dataset"):  # on the hub, which a report never asks
        return "", ""
    try:
        scenario = make("scenarios", {"name": DEFAULT_SCENARIO, **spec}, "scenario")
        n, seed = int(evaluation["n"]), int(evaluation["seed"])
        prompts = scenario.prompts("eval", scenario.monitored_tier, n, seed)
    except (UserError, KeyError, TypeError, ValueError, OSError):
        return "", ""
    told = digest([[message.content for message in prompt.messages] for prompt in prompts])
    system = (m.content for prompt in prompts[:1] for m in prompt.messages if m.role == "system")
    return told, next(system, "")
