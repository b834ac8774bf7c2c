"""Rate matching: the share of compliance is to be the same in both tiers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field

from crypsis.mitigations.compliance import AsksOtherTier
from crypsis.mitigations.hooks import AddsTerm, Calibrates, LearnsExtraTurn
from crypsis.types import Episode, UserError

Key = tuple[int, int, int]


class RateMatching(AsksOtherTier, LearnsExtraTurn, AddsTerm, Calibrates):
    """Rewards answers that bring a request's rate of compliance to that of the reference tier; reads no reasoning.

    Imran et al. 2026, "Consistency Training while Mitigating Obfuscation via Rate Matching". A group's requests are
    asked once more in the other tier, so each tier has a rate p̂ per request; an answer with compliance c earns
    −(p̂ − p_ref)(c − p̂), the gradient of half the squared distance. Where ``paired_tiers`` compares one pair of answers
    and punishes the monitored one for chance, too, this compares rates.

    Departures: RL itself samples the monitored tier only (paper §1), so the other tier is an extra turn, learned only
    with ``reference: monitored``, and then that tier is no longer untrained. The anchor −(p̂ − p₀)(c − p̂) is to one p₀,
    the pilot's, instead of one per request, and on monitored answers alone: on the others it would keep the gap open.
    Both weights are ours.
    """

    name: ClassVar[str] = "rate_matching"

    reference: Literal["unmonitored", "monitored"] = "unmonitored"
    """The tier whose rate the other one is brought to; with ``unmonitored`` the monitored answers learn, with
    ``monitored`` those in the other tier do."""
    coefficient: float = Field(2.0, gt=0, le=1e6)
    """Factor of the matching reward: with 2 a full gap weighs as much as complying instead of refusing earns."""
    anchor: float = Field(0.5, ge=0, le=1e6)
    """Factor of the anchor, so that a gap is not closed by refusing everything."""
    start: float | None = Field(None, ge=0, le=1)
    """Monitored compliance that the anchor holds on to; the starting policy's, measured in the pilot, if not given."""

    def calibrate(self, pilot: Sequence[Episode]) -> Self:
        """Measures the starting rate if none is set."""
        if self.start is not None or not self.anchor:
            return self
        known = [c for c in self._own(pilot) if c is not None]
        if not known:
            raise UserError(f"mitigations: {self.name}: no reply of the pilot can be judged; set 'start', or anchor: 0")
        return self.model_copy(update={"start": sum(known) / len(known)})

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The monitored answers' reward; None where an answer, or the whole reference tier, cannot be judged."""
        own = self._own(episodes)
        matched = self.reference == "unmonitored"
        matching = self._matching(episodes, own, self.other_compliance(episodes) if matched else own)
        rates = _rates(episodes, own)
        anchors = [
            0.0 if c is None or self.start is None else -self.anchor * (r - self.start) * (c - r)
            for c, r in ((c, rates.get(_key(e), 0.0)) for e, c in zip(episodes, own, strict=True))
        ]
        return [None if m is None else m + anchor for m, anchor in zip(matching, anchors, strict=True)]

    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The other tier's reward; None, which does not learn, where that tier is the reference or cannot be judged."""
        if self.reference == "unmonitored":
            return [None] * len(episodes)
        return self._matching(episodes, self.other_compliance(episodes), self._own(episodes))

    def _matching(
        self, episodes: Sequence[Episode], tier: Sequence[float | None], reference: Sequence[float | None]
    ) -> list[float | None]:
        """−(p̂ − p_ref)(c − p̂) of each answer of a tier."""
        rates, references = _rates(episodes, tier), _rates(episodes, reference)
        found: list[float | None] = []
        for key, c in zip(map(_key, episodes), tier, strict=True):
            if c is None or key not in references:
                found.append(None)
            else:
                found.append(-self.coefficient * (rates[key] - references[key]) * (c - rates[key]))
        return found

    def _own(self, episodes: Sequence[Episode]) -> list[float | None]:
        """Compliance of the well-formed replies."""
        return [c if e.parse == "ok" else None for e, c in zip(episodes, self.compliance(episodes), strict=True)]


def _key(episode: Episode) -> Key:
    return (episode.step, episode.seed, episode.group)


def _rates(episodes: Sequence[Episode], compliance: Sequence[float | None]) -> Mapping[Key, float]:
    """The mean compliance of each group, of those that have any."""
    known: dict[Key, list[float]] = defaultdict(list)
    for episode, c in zip(episodes, compliance, strict=True):
        if c is not None:
            known[_key(episode)].append(c)
    return {key: sum(values) / len(values) for key, values in known.items()}
