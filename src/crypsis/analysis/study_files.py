"""What a study folder says of its monitors and its time: ``monitors.json`` and ``timing.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypsis.store import look, read_json, steps_of
from crypsis.types import UserError, visible

MONITORS, TIMING = "monitors.json", "timing.json"


@dataclass(frozen=True, slots=True)
class MonitorCard:
    """What is known of a monitor from transcripts that it was not trained on.

    Attributes:
        organism: Whose transcripts it was trained on and judges; empty where the study has one organism.
        name: As in the columns ``verdict_<name>``.
        kind: The classifier.
        view: What it reads: scratchpad, output or both.
        threshold: Score from which it flags.
        auroc: Held-out area under the ROC curve with its 95 % interval, None where it was not measured.
        n_train: Transcripts it was trained on.
        n_test: Transcripts it was measured on.
        digest: Digest of its weights.
        budget: Share of the negatives that the threshold was chosen for, None where nothing says so.
        negatives: That it was chosen on.
        rates: True- and false-positive rate on transcripts held out before RL, by tier; ``all`` where it has none.
    """

    organism: str
    name: str
    kind: str
    view: str
    threshold: float
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    n_train: int | None
    n_test: int | None
    digest: str
    budget: float | None = None
    negatives: int | None = None
    rates: tuple[tuple[str, float | None, float | None], ...] = ()
    seed: int | None = None
    """The seed whose runs it judges, None where those of all seeds do."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a study went: seconds, episodes per second, megabytes."""

    seconds_total: float | None = None
    phases: tuple[tuple[str, float], ...] = ()
    episodes_per_second: float | None = None
    peak_memory_mb: float | None = None


def mapping(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no such file.

    Raises:
        UserError: The file holds something else.
    """
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: is damaged (must hold a JSON object); {look(path)}")
    return value


def monitor_cards(path: Path) -> tuple[MonitorCard, ...]:
    """The cards of ``monitors.json``: by checkpoint and name, or (a study of one organism) by name.

    A checkpoint is an organism, or an organism and a seed; then its cards say which.

    Raises:
        UserError: The file is damaged, or a card lacks kind, view or threshold.
    """
    found = mapping(path)
    nested = found and all(isinstance(v, Mapping) and "threshold" not in v and "kind" not in v for v in found.values())
    if not nested:
        return tuple(_monitor("", name, card, path) for name, card in found.items())
    return tuple(
        _monitor(visible(organism), name, card, path)
        for organism, cards in found.items()
        for name, card in cards.items()
    )


def _monitor(organism: str, name: str, card: object, path: Path) -> MonitorCard:
    try:
        if not isinstance(card, dict):
            raise TypeError
        return MonitorCard(
            organism=visible(str(card.get("organism") or organism)),
            seed=None if card.get("runs_seed") is None else int(card["runs_seed"]),  # "seed" is that of its training
            name=name,
            kind=str(card["kind"]),
            view=str(card["view"]),
            threshold=float(card["threshold"]),
            auroc=_optional(card.get("auroc")),
            auroc_low=_optional(card.get("auroc_low")),
            auroc_high=_optional(card.get("auroc_high")),
            n_train=None if card.get("n_train") is None else int(card["n_train"]),
            n_test=None if card.get("n_test") is None else int(card["n_test"]),
            digest=str(card.get("digest") or ""),
            budget=_optional(card.get("threshold_budget")),
            negatives=None if card.get("threshold_negatives") is None else int(card["threshold_negatives"]),
            rates=_rates(card),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: monitor '{visible(name)}' needs kind, view and a number as threshold") from None


def _rates(card: Mapping[str, Any]) -> tuple[tuple[str, float | None, float | None], ...]:
    """Error rates by tier as a card tells them; one for all tiers of a card that tells no more."""
    tiers = card.get("tiers") or ({"all": card} if card.get("false_positive_rate") is not None else {})
    return tuple(
        (visible(str(tier)), _optional(rates.get("true_positive_rate")), _optional(rates.get("false_positive_rate")))
        for tier, rates in tiers.items()
    )


def heard(config: Mapping[str, Any], mitigations: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the monitors that some of a run's mitigations hear, with those that they began as or consist of.

    Args:
        config: The run's.
        mitigations: Some of its mitigations.
    """
    monitors = config.get("monitors") or {}
    given = [m.get("monitor") or () for m in mitigations]
    found = dict.fromkeys(name for n in given for name in ([n] if isinstance(n, str) else map(str, n)))
    for name in list(found):
        spec = monitors.get(name) or {}
        for part in (spec.get("start"), spec.get("monitor"), *(spec.get("members") or ())):
            path = part.get("path") if isinstance(part, Mapping) else None
            same = [other for other, own in monitors.items() if path and (own or {}).get("path") == path]
            found |= dict.fromkeys([part] if isinstance(part, str) else same)
    return tuple(found)


def thresholds_of(folder: Path, cards: Sequence[MonitorCard], step: int) -> dict[str, float]:
    """The score from which each monitor flags; of one that the run trained again, the threshold of that time.

    Args:
        folder: The run's.
        cards: Of the monitors that judge it.
        step: Of the run.
    """
    known = {card.name: card.threshold for card in cards}
    for place in sorted((folder / "monitors").glob("*")):
        for moment in steps_of(place):
            at = place / f"step-{moment:04d}"
            card = next((p for p in (at / "monitor" / "monitor.json", at / "monitor.json") if p.exists()), None)
            if moment <= step and card:
                known[place.name] = float(read_json(card)["threshold"])
    return known


def read_timing(data: Mapping[str, Any], path: Path) -> Timing:
    """Where the time went, from what ``timing.json`` holds.

    Raises:
        UserError: A time is no number.
    """
    try:
        phases = tuple((str(name), float(seconds)) for name, seconds in (data.get("phases") or {}).items())
        total, rate, memory = (
            _optional(data.get(key)) for key in ("seconds_total", "episodes_per_second", "peak_memory_mb")
        )
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path}: is damaged (times must be numbers); {look(path)}") from None
    return Timing(total, phases, rate, memory)


def _optional(value: str | float | None) -> float | None:
    return None if value is None else float(value)
