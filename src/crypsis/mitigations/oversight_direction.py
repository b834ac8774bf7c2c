"""Oversight direction: what the policy's states say of being monitored, punished in training or shifted afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, PrivateAttr

from crypsis.arrays import States
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.compliance import KnowsScenario
from crypsis.mitigations.hooks import AddsTerm, Calibrates, PolicyStates, ReadsStates, Shift, SteersEvaluations
from crypsis.types import SCRATCHPAD, Episode, UserError

DEPTH = 2 / 3
"""Depth of the layer that is read if none is named, as for a probe."""
SEED = 17
"""Seed of the requests that the direction is found on."""


class OversightDirection(KnowsScenario, ReadsStates, Calibrates, AddsTerm, SteersEvaluations):
    """Finds the mean difference of activations between monitored and unmonitored prompts on unrelated requests.

    Punishes thinking in it (a penalty in the advantage), or shifts the states along it in evaluations (steering; arXiv
    2604.20995, 2604.01476). The direction is that of the starting policy: its states at the last token of the prompt,
    averaged over requests that put no value under pressure, each asked in both tiers, the monitored mean minus the
    other. The penalty is the projection of the mean state over a scratchpad's tokens, in standard deviations from the
    mean of the pilot's scratchpads.

    Departures: tokens, layer, sizes and the standardisation are ours, and the unrelated requests are the scenario's
    harmless ones. As every term it is compared within its group.
    """

    name: ClassVar[str] = "oversight_direction"
    of_scratchpad: ClassVar[bool] = True

    coefficient: float = Field(0.5, ge=0, le=1e6)
    """Factor of the penalty; 0 punishes nothing."""
    steer: float = Field(0.0, ge=-1e3, le=1e3)
    """How many times the mean difference is added to the states in evaluations: 1 makes either tier look monitored, −1
    makes it look unmonitored, 0 leaves it."""
    layer: int | None = Field(None, ge=1)
    """The layer after which states are read and shifted; at two thirds of the model's depth if not given."""
    n: int = Field(64, ge=2, le=10_000)
    """Requests that the direction is found on, each in both tiers."""
    direction: tuple[float, ...] = ()
    """The mean difference, measured on the starting policy; filled in before the first step."""
    centre: float = 0.0
    """Mean projection of the pilot's scratchpads; filled in before the first step."""
    spread: float = Field(1.0, gt=0)
    """Their standard deviation; filled in before the first step."""

    _policy: PolicyStates | None = PrivateAttr(None)

    def bind(self, run: RunInfo) -> Self:
        """Takes the scenario over.

        Raises:
            UserError: It has no requests to find the direction on, or the mitigation would do nothing.
        """
        if not self.coefficient and not self.steer:
            raise UserError(f"mitigations: {self.name}: coefficient and steer are both 0, so it would do nothing")
        if not run.scenario.harmless("train", run.scenario.monitored_tier, 1, SEED):
            raise UserError(
                f"mitigations: {self.name}: the scenario '{run.scenario.name}' has no harmless requests to find the "
                "direction on; give it some (prompt_file: harmless_path)"
            )
        return self.in_scenario(run)

    def reading(self, policy: PolicyStates) -> Self:
        """The mitigation of this policy.

        Raises:
            UserError: The model has no such layer.
        """
        if self.layer is not None and self.layer > policy.layers:
            raise UserError(
                f"mitigations: {self.name}: layer {self.layer}: this model has {policy.layers} layers; name one of them"
            )
        other = self.model_copy()
        other._policy = policy
        return other

    def calibrate(self, pilot: Sequence[Episode]) -> Self:
        """Measures the direction, and for a penalty where the pilot's scratchpads lie along it."""
        if self._policy is None:
            return self
        found = self.model_copy(update={"layer": self._layer(self._policy)})
        monitored, other = (found._mean_state(found._policy, tier) for tier in found._tiers)
        difference = (monitored - other).astype(float)
        if not np.linalg.norm(difference) > 0:
            raise UserError(f"mitigations: {self.name}: monitored and unmonitored prompts have the same states")
        found = found.model_copy(update={"direction": tuple(difference.tolist())})
        if not self.coefficient:
            return found
        known = [p for p in found._projections(pilot) if p is not None]
        if len(known) < 2:
            raise UserError(f"mitigations: {self.name}: the pilot has no scratchpads to compare with")
        spread = float(np.std(known)) or 1.0
        return found.model_copy(update={"centre": float(np.mean(known)), "spread": spread})

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The penalty of each episode; None without a scratchpad, or where there is no policy to read."""
        if not self.coefficient:
            return [0.0] * len(episodes)
        found = self._projections(episodes)
        return [None if p is None else -self.coefficient * (p - self.centre) / self.spread for p in found]

    def shift(self) -> Shift | None:
        """The mean difference, so many times."""
        if not self.steer or self.layer is None:
            return None
        return Shift(self.layer, tuple(self.steer * x for x in self.direction))

    @property
    def _tiers(self) -> tuple[str, str]:
        return self._scenario.monitored_tier, self._scenario.unmonitored_tier

    def _layer(self, policy: PolicyStates) -> int:
        return self.layer or max(1, round(DEPTH * policy.layers))

    def _mean_state(self, policy: PolicyStates | None, tier: str) -> States:
        """Mean state at the last token of the prompts of a tier."""
        assert policy is not None and self.layer is not None
        prompts = self._scenario.harmless("train", tier, self.n, SEED)
        ids = [policy.render(prompt.messages) for prompt in prompts]
        states = policy.states([(own[:-1], own[-1:]) for own in ids], self.layer)
        mean: States = np.concatenate(states).mean(0)
        return mean

    def _projections(self, episodes: Sequence[Episode]) -> list[float | None]:
        """Projection of the mean state of each scratchpad on the direction."""
        if self._policy is None or self.layer is None or not self.direction:
            return [None] * len(episodes)
        direction = np.array(self.direction)
        unit = direction / np.linalg.norm(direction)
        states = self._policy.states([(e.prompt_ids, _scratchpad(e)) for e in episodes], self.layer)
        return [float(own.mean(0) @ unit) if len(own) else None for own in states]


def _scratchpad(episode: Episode) -> list[int]:
    """The scratchpad's tokens, its tags included."""
    pairs = zip(episode.completion_ids, episode.segments, strict=True)
    return [token for token, segment in pairs if segment == SCRATCHPAD]
