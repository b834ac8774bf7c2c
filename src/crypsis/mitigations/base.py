"""What a mitigation is: a term of the reward, a filter of episodes, one more turn, or settings of RL."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from crypsis.config import Config
from crypsis.scenarios.base import Scenario
from crypsis.types import Episode, Prompt, UserError, View


@dataclass(frozen=True, slots=True)
class Setting:
    """The run that mitigations are to work in.

    Attributes:
        scenario: Where prompts come from.
        views: By name of the run's monitors, what each of them may read.
        thresholds: By name, the score from which a monitor flags.
        rl: The settings of RL by name.
    """

    scenario: Scenario
    views: Mapping[str, View]
    thresholds: Mapping[str, float]
    rl: Mapping[str, Any]


class Mitigation(Config, ABC):
    """Something that RL does against alignment faking (paper §5): its frozen config plus at least one of the hooks.

    The hooks are :meth:`terms`, :meth:`filter`, :meth:`extra_turn` and :meth:`settings`; a hook that is not
    overridden does nothing.
    """

    name: ClassVar[str]
    sign: ClassVar[int] = 0
    """-1 if its term punishes high scores of the monitors that it listens to, 1 if it rewards them."""
    of_scratchpad: ClassVar[bool] = False
    """Whether its term is a function of the scratchpad alone."""
    asks_in_evaluations: ClassVar[bool] = True
    """Whether evaluations ask its extra turn too; False where they have the answers anyway."""

    @property
    def listens_to(self) -> tuple[str, ...]:
        """Names of the monitors whose verdicts it uses: they are trained against, all others are held out."""
        return ()

    @property
    def answerer(self) -> str | None:
        """Who replies to its extra turn: None for the policy, a checkpoint, or "" for the policy before training."""
        return None

    @property
    def lag(self) -> int:
        """Steps by which its term reaches the policy late."""
        return 0

    def settings(self) -> dict[str, Any]:
        """Settings of RL that it makes, by name (``learn``, ``kl``, …)."""
        return {}

    def bind(self, setting: Setting) -> Self:
        """The mitigation as it works in a run, with what it takes from there filled in; called before the first step.

        Raises:
            UserError: It cannot work there.
        """
        return self

    def calibrate(self, pilot: Sequence[Episode]) -> Self:
        """The mitigation with what it measures on the starting policy's replies to monitored prompts.

        It must not look at verdicts or labels.
        """
        return self

    def extra_turn(self, episode: Episode) -> Prompt | None:
        """The conversation that goes on from an episode, ending with a user's turn; None asks nothing.

        The reply is sampled before monitors judge, stands in ``episode.extra_turn``, and is never in the loss.
        """
        return None

    def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """Whether each episode is to give no gradient; None where that cannot be told (a missing verdict)."""
        return [False] * len(episodes)

    def terms(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The term added to each episode's reward; None where it cannot be computed (a missing verdict)."""
        return [0.0] * len(episodes)


def overrides(mitigation: Mitigation, hook: str) -> bool:
    """Whether a mitigation has a hook of its own."""
    return getattr(type(mitigation), hook) is not getattr(Mitigation, hook)


def prepare(mitigations: Sequence[Mitigation], setting: Setting) -> list[Mitigation]:
    """The mitigations of a run, ready for its first step.

    Raises:
        UserError: One of them cannot work in this run, or two of them not together.
    """
    for rule in (_one_extra_turn, _no_contrary_settings, _learnable, _not_at_odds, _in_time):
        if fault := rule(mitigations, setting):
            raise UserError(f"mitigations: {fault}")
    for mitigation in mitigations:
        for monitor in mitigation.listens_to:
            if monitor not in setting.views:
                known = ", ".join(setting.views) or "none"
                raise UserError(f"mitigations: {mitigation.name}: no monitor '{monitor}' in this run; it has {known}")
    return [m.bind(setting) for m in mitigations]


def _one_extra_turn(mitigations: Sequence[Mitigation], setting: Setting) -> str:
    asking = [m.name for m in mitigations if overrides(m, "extra_turn")]
    if len(asking) > 1:
        return f"{' and '.join(asking)} both ask an extra turn; keep one of them"
    needs = [(m.name, n) for m in mitigations for n in m.listens_to if setting.views.get(n) == "extra_turn"]
    if needs and not asking:
        name, monitor = needs[0]
        return f"{name}: monitor '{monitor}' reads the reply to an extra turn, but nothing asks one; add interrogation"
    return ""


def _no_contrary_settings(mitigations: Sequence[Mitigation], setting: Setting) -> str:
    made: dict[str, tuple[str, Any]] = {}
    for m in mitigations:
        for key, value in m.settings().items():
            if key in made and made[key][1] != value:
                return f"{made[key][0]} sets rl.{key}={made[key][1]} and {m.name} sets rl.{key}={value}; keep one"
            made[key] = (m.name, value)
    return ""


def _learnable(mitigations: Sequence[Mitigation], setting: Setting) -> str:
    if setting.rl["learn"] != "output":
        return ""
    for m in mitigations:
        views = {setting.views.get(n) for n in m.listens_to}
        if overrides(m, "terms") and (views == {"scratchpad"} or m.of_scratchpad):
            return (
                f"{m.name}: with rl.learn=output a group shares one scratchpad, so a term of the scratchpad alone is "
                "the same for all its episodes and teaches nothing; use rl.learn=all, or another monitor"
            )
    return ""


def _not_at_odds(mitigations: Sequence[Mitigation], setting: Setting) -> str:
    signs: dict[str, tuple[str, int]] = {}
    for m in mitigations:
        for monitor in m.listens_to if m.sign else ():
            name, other = signs.setdefault(monitor, (m.name, m.sign))
            if other != m.sign:
                return f"{name} and {m.name} reward and punish the same verdicts of '{monitor}'; keep one of them"
    return ""


def _in_time(mitigations: Sequence[Mitigation], setting: Setting) -> str:
    for m in mitigations:
        if m.lag and m.lag >= setting.rl["steps"]:
            return (
                f"{m.name}: verdicts that are {m.lag} steps late never arrive in a run of {setting.rl['steps']} steps"
            )
        if m.lag and setting.rl["advantage_scale"] == "group":
            return (
                f"{m.name}: delay needs rl.advantage_scale=none; divided by the group's deviation, a late term cannot "
                "be added to the advantage that its episode had"
            )
    return ""
