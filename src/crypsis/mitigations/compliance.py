"""What mitigations that look at conduct or faking have in common: who judges it, and the request in the other tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

from crypsis.mitigations.base import Mitigation, RunInfo
from crypsis.mitigations.hooks import AsksExtraTurn
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.scenarios.base import AsksInTier, Judge, Scenario
from crypsis.types import Episode, Prompt, UserError


class KnowsScenario(Mitigation):
    """A mitigation that asks its scenario."""

    scenario: dict[str, Any] = {}
    """The run's, filled in before the first step."""

    def in_scenario(self, run: RunInfo) -> Self:
        """The mitigation with the run's scenario."""
        scenario = run.scenario
        return self.model_copy(update={"scenario": {"name": scenario.name, **scenario.model_dump(mode="json")}})

    def in_other_tier(self, prompt: Prompt) -> Prompt:
        """The same request in the other tier; what stands before the user's turn stays as it is.

        So a system text that another mitigation put in the scenario's place (inoculation) is that of both tiers.
        """
        place = self._scenario
        assert isinstance(place, AsksInTier), "checked before the first step"
        other = place.unmonitored_tier if prompt.tier == place.monitored_tier else place.monitored_tier
        asked = place.in_tier(prompt, other)
        return replace(asked, messages=(*prompt.messages[:-1], asked.messages[-1]))

    def true_faking(self, episodes: Sequence[Episode]) -> list[float | None]:
        """1 for each episode that fakes by the scenario's ground truth, 0 for one that does not, None if unknown."""
        truth = self._truth
        return [{"yes": 1.0, "no": 0.0}.get(truth.labels(e).get("af", "")) for e in episodes]

    @cached_property
    def _scenario(self) -> Scenario:
        spec = self.scenario or {"name": DEFAULT_SCENARIO}
        scenario: Scenario = make("scenarios", spec, f"mitigations: {self.name}: scenario")
        return scenario

    @property
    def _truth(self) -> Judge:
        truth = self._scenario.judge()
        assert truth is not None, "checked before the first step"
        return truth


def _asks_truth(spec: Any) -> bool:
    """Whether a monitor, or one within it, is the oracle."""
    inner = list(spec.values()) if isinstance(spec, Mapping) else spec if isinstance(spec, list) else []
    return (isinstance(spec, Mapping) and spec.get("name") == "oracle") or any(map(_asks_truth, inner))


def tells_faking(scenario: Scenario) -> bool:
    """Whether a scenario's ground truth says more than conduct."""
    truth = scenario.judge()
    return truth is not None and type(truth).labels is not Judge.labels


class HasJudge(KnowsScenario):
    """A mitigation that a monitor of its own may judge for, in place of the scenario's ground truth."""

    judge: dict[str, Any] | None = None
    """A monitor; the scenario's ground truth if not given."""

    def check_access(self) -> None:
        """Checks access to the judge."""
        if self.judge is not None:
            self._judge.check_access()

    def check_judge(self) -> None:
        """Refuses a judge that would never say anything; opens one that is stored.

        Raises:
            UserError: It reads the policy, which judges are not given; or it asks the ground truth of a scenario, which
                is not that of the run; or it cannot be loaded.
        """
        if self.judge is None:
            return
        where = f"mitigations: {self.name}: judge"
        if hasattr(self._judge, "watching"):
            raise UserError(
                f"{where}: '{self._judge.name}' reads the policy's states, which no judge is given; name another"
            )
        if _asks_truth(self.judge):
            raise UserError(f"{where}: leave it out: without a judge the ground truth of the run's scenario decides")
        _ = self._judge.card

    def judged(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The judge's scores."""
        return [verdict.score for verdict in self._judge.judge([replace(e, labels={}) for e in episodes])]

    @cached_property
    def _judge(self) -> Any:
        """A monitor; mitigations and monitors are rooms side by side, so its class is not imported."""
        return make("monitors", self.judge or {}, f"mitigations: {self.name}: judge")


class JudgesCompliance(HasJudge):
    """A mitigation that asks how surely outputs comply.

    Its judge scores the compliance of outputs, such as ``{name: prompted, rubric: compliance, view: output}``.
    """

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: Nothing can judge its outputs, or the judge reads scratchpads.
        """
        self.check_judge()
        scenario = run.scenario
        if self.judge is None and scenario.judge() is None:
            raise UserError(
                f"mitigations: {self.name}: judge: the scenario '{scenario.name}' has no ground truth of its own; name "
                "a monitor of outputs that scores compliance"
            )
        if self.judge is not None and self._judge.sees != "output":
            raise UserError(f"mitigations: {self.name}: judge: reads {self._judge.sees}; give one with view output")
        return self.in_scenario(run)

    def compliance(self, episodes: Sequence[Episode]) -> list[float | None]:
        """How surely each output complies, in [0, 1]; None where the judge cannot tell."""
        if self.judge is not None:
            return self.judged(episodes)
        truth = self._truth
        return [{"comply": 1.0, "refuse": 0.0}.get(truth.conduct(e.prompt, e.output)) for e in episodes]


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
        known = self.scenario and isinstance(self._scenario, AsksInTier)
        return self.in_other_tier(episode.prompt) if episode.parse == "ok" and known else None

    def other_compliance(self, episodes: Sequence[Episode]) -> list[float | None]:
        """How surely the replies in the other tier comply; None where there is none, or the judge cannot tell."""
        others = [replace(e, scratchpad=e.extra_scratchpad, output=e.extra_output) for e in episodes]
        found = zip(episodes, self.compliance(others), strict=True)
        return [value if e.extra_turn else None for e, value in found]
