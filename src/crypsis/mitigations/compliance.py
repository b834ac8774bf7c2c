"""What mitigations that look at conduct have in common: who judges it, and the same request in the other tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

from crypsis.mitigations.base import Mitigation, RunInfo
from crypsis.mitigations.hooks import AsksExtraTurn
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.scenarios.base import AsksInTier, Scenario
from crypsis.types import Episode, Prompt, UserError


class JudgesCompliance(Mitigation):
    """A mitigation that asks how surely outputs comply."""

    judge: dict[str, Any] | None = None
    """A monitor that scores the compliance of outputs, such as ``{name: prompted, rubric: compliance, view: output}``;
    the scenario's ground truth if not given."""
    scenario: dict[str, Any] = {}
    """The run's, filled in before the first step."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: Nothing can judge its outputs, or the judge reads scratchpads.
        """
        scenario = run.scenario
        if self.judge is None and scenario.judge() is None:
            raise UserError(
                f"mitigations: {self.name}: judge: the scenario '{scenario.name}' has no ground truth of its own; name "
                "a monitor of outputs that scores compliance"
            )
        if self.judge is not None and self._judge.sees != "output":
            raise UserError(f"mitigations: {self.name}: judge: reads {self._judge.sees}; give one with view output")
        return self.model_copy(update={"scenario": {"name": scenario.name, **scenario.model_dump(mode="json")}})

    def check_access(self) -> None:
        """Checks access to the judge."""
        if self.judge is not None:
            self._judge.check_access()

    def compliance(self, episodes: Sequence[Episode]) -> list[float | None]:
        """How surely each output complies, in [0, 1]; None where the judge cannot tell."""
        if self.judge is not None:
            return [verdict.score for verdict in self._judge.judge([replace(e, labels={}) for e in episodes])]
        truth = self._scenario.judge()
        assert truth is not None, "checked before the first step"
        return [{"comply": 1.0, "refuse": 0.0}.get(truth.conduct(e.prompt, e.output)) for e in episodes]

    @cached_property
    def _judge(self) -> Any:
        """A monitor; mitigations and monitors are rooms side by side, so its class is not imported."""
        return make("monitors", self.judge or {}, f"mitigations: {self.name}: judge")

    @cached_property
    def _scenario(self) -> Scenario:
        spec = self.scenario or {"name": DEFAULT_SCENARIO}
        scenario: Scenario = make("scenarios", spec, f"mitigations: {self.name}: scenario")
        return scenario


class AsksOtherTier(JudgesCompliance, AsksExtraTurn):
    """Asks each well-formed episode's request once more in the other tier; evaluations have both tiers anyway."""

    asks_in_evaluations: ClassVar[bool] = False

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: As for :class:`JudgesCompliance`, or the scenario cannot ask in another tier.
        """
        if not isinstance(run.scenario, AsksInTier):
            raise UserError(f"mitigations: {self.name}: the scenario '{run.scenario.name}' cannot ask in another tier")
        return super().bind(run)

    def ask(self, episode: Episode) -> Prompt | None:
        """The same request in the other tier."""
        place = self._scenario
        if episode.parse != "ok" or not self.scenario or not isinstance(place, AsksInTier):
            return None
        tier = place.unmonitored_tier if episode.prompt.tier == place.monitored_tier else place.monitored_tier
        return place.in_tier(episode.prompt, tier)

    def other_compliance(self, episodes: Sequence[Episode]) -> list[float | None]:
        """How surely the replies in the other tier comply; None where there is none, or the judge cannot tell."""
        others = [replace(e, scratchpad=e.extra_scratchpad, output=e.extra_output) for e in episodes]
        found = zip(episodes, self.compliance(others), strict=True)
        return [value if e.extra_turn else None for e, value in found]
