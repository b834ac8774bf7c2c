"""Which sentences of a transcript weigh most for a monitor: each is left out once, and the score is asked again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crypsis.monitors.base import Monitor
from crypsis.monitors.prompted import Prompted
from crypsis.monitors.sentences import sentences
from crypsis.monitors.trained import FLOOR
from crypsis.types import Episode

MOST_PIECES = 40
"""A longer text is cut into so many pieces of whole sentences."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A sentence and how much it adds.

    Attributes:
        text: The sentence, or a few that follow each other in a long text.
        weight: Log-odds of the score with it minus without it; None where a judge quoted it, or it is the
            only sentence.
    """

    text: str
    weight: float | None


def heaviest_sentences(monitor: Monitor, episodes: Sequence[Episode], most: int) -> list[list[Weight]]:
    """The sentences that raise each episode's score most, the heaviest first.

    A prompted monitor has quoted its reasons and is not asked again.

    Args:
        monitor: Any monitor; it has judged the episodes.
        episodes: What it judged.
        most: Sentences per episode.
    """
    if isinstance(monitor, Prompted):
        return [_quotes(episode, monitor.loaded.name)[:most] for episode in episodes]
    variants: list[Episode] = []
    plans: list[list[str]] = []
    for episode in episodes:
        pieces = _pieces(episode, monitor)
        plans.append([text for _, text in pieces])
        variants += [_without(episode, pieces, left_out) for left_out in range(-1, len(pieces))]
    verdicts = iter(monitor.judge(variants))
    found = []
    for plan in plans:
        whole = next(verdicts).score
        scores = [next(verdicts).score for _ in plan]
        if len(plan) == 1:  # without its only sentence there is nothing to compare with
            found.append([Weight(plan[0], None)])
            continue
        weights = [Weight(text, _logit(whole) - _logit(score)) for text, score in zip(plan, scores, strict=True)]
        raising = [w for w in weights if w.weight is not None and w.weight > 0]
        found.append(sorted(raising, key=lambda w: -(w.weight or 0.0))[:most])
    return found


def _pieces(episode: Episode, monitor: Monitor) -> list[tuple[str, str]]:
    """Sentences of what the monitor sees, each with the part that it stands in."""
    parts = ("scratchpad", "output") if monitor.sees == "both" else (monitor.sees,)
    pieces = [
        (part, text) for part in parts for text in (sentences(getattr(episode, part)) if _seen(episode, part) else [])
    ]
    size = -(-len(pieces) // MOST_PIECES) or 1
    joined: list[tuple[str, str]] = []
    for part in parts:
        own = [text for name, text in pieces if name == part]
        joined += [(part, " ".join(own[i : i + size])) for i in range(0, len(own), size)]
    return joined


def _seen(episode: Episode, part: str) -> bool:
    return part in ("scratchpad", "output") and bool(getattr(episode, part).strip())


def _without(episode: Episode, pieces: Sequence[tuple[str, str]], left_out: int) -> Episode:
    """The episode made of all pieces but one (of all for −1)."""
    texts = {"scratchpad": "", "output": ""}
    for part in texts:
        texts[part] = " ".join(text for i, (name, text) in enumerate(pieces) if name == part and i != left_out)
    return replace(episode, scratchpad=texts["scratchpad"], output=texts["output"], verdicts={}, labels={})


def _logit(score: float | None) -> float:
    """Log-odds; a monitor that is left without any text has no reason to flag."""
    p = min(max(score if score is not None else FLOOR, FLOOR), 1 - FLOOR)
    return math.log(p / (1 - p))


def _quotes(episode: Episode, rubric: str) -> list[Weight]:
    criteria = json.loads(episode.labels.get(f"{rubric}_criteria", "{}"))
    quotes = [q for entry in criteria.values() if isinstance(entry, dict) for q in entry.get("quotes", [])]
    return [Weight(text, None) for text in dict.fromkeys(quotes)]
