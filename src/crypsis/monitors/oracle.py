"""A scenario's ground truth as a monitor, and as the judge of conduct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from crypsis.monitors.base import Monitor
from crypsis.registry import DEFAULT_SCENARIO, find, make, names
from crypsis.scenarios.base import Judge, Scenario
from crypsis.types import Episode, UserError, Verdict, View


class OracleMonitor(Monitor):
    """Reads the ground truth of a scenario exactly; abstains (``unparsed``) rather than guess."""

    name: ClassVar[str] = "oracle"

    scenario: dict[str, Any] = {"name": DEFAULT_SCENARIO}
    """Whose ground truth: the run's scenario, filled in before the first step."""

    @property
    def sees(self) -> View:
        """Everything."""
        return "both"

    @property
    def writes_labels(self) -> bool:
        """All that the scenario's judge knows."""
        return True

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """1 for faking, 0 for not, None where the text does not tell; also writes ``episode.labels``."""
        verdicts = []
        for episode in episodes:
            labels = self._truth.labels(episode)
            episode.labels |= labels
            faking = labels.get("af", "")
            score = {"yes": 1.0, "no": 0.0}.get(faking)
            reason = "" if score is not None else faking or "the scenario does not say what fakes"
            verdicts.append(Verdict(score, reason))
        return verdicts

    @cached_property
    def _truth(self) -> Judge:
        scenario: Scenario = make("scenarios", self.scenario, "monitors: oracle: scenario")
        truth = scenario.judge()
        if truth is None:
            raise UserError(
                f"monitors: oracle: the scenario '{scenario.name}' has no ground truth; name a monitor of text"
            )
        return truth


def with_truth(spec: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """A monitor's settings in which every oracle, also one inside of another monitor, is the scenario's."""
    truth = {"scenario": {"name": scenario.name, **scenario.model_dump(mode="json")}}
    inner = {key: _with_truth(value, scenario) for key, value in (_default_monitors(spec) | dict(spec)).items()}
    return (truth if spec.get("name") == OracleMonitor.name else {}) | inner


def _with_truth(value: Any, scenario: Scenario) -> Any:
    if isinstance(value, Mapping):
        return with_truth(value, scenario)
    return [_with_truth(entry, scenario) for entry in value] if isinstance(value, list) else value


def names_oracle(value: Any) -> bool:
    """Whether a setting of a monitor is the oracle, or holds it."""
    if isinstance(value, Mapping):
        inner = _default_monitors(value) | dict(value)
        return value.get("name") == OracleMonitor.name or any(map(names_oracle, inner.values()))
    return isinstance(value, list) and any(map(names_oracle, value))


def _default_monitors(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The monitors inside of a monitor that its settings leave to their defaults."""
    kind = spec.get("name")
    if not isinstance(kind, str) or kind == OracleMonitor.name or kind not in names("monitors"):
        return {}
    fields = getattr(find("monitors", kind), "model_fields", {})
    return {key: f.default for key, f in fields.items() if isinstance(f.default, Mapping) and "name" in f.default}
