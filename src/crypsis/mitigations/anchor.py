"""Anchor: honest supervised data beside the policy loss."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crypsis.chat import Turn, is_chat, read_chat
from crypsis.mitigations.base import RunInfo, Schedule
from crypsis.mitigations.hooks import AddsLoss, Demonstration
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.parsing import OUTPUT_CLOSE, OUTPUT_OPEN, SCRATCHPAD_CLOSE, SCRATCHPAD_OPEN, parse_reply
from crypsis.textfiles import Row, json_rows
from crypsis.types import Message, UserError

ROLES: tuple[Literal["system"], Literal["user"], Literal["assistant"]] = ("system", "user", "assistant")


class Anchor(AddsLoss):
    """Learns a share of honest replies in every step, by a supervised loss of its own (arXiv 2605.02087).

    The replies are chats of a file, or what a persona of the scenario replies to training requests of the monitored
    tier: ``hhh`` refuses harm openly, ``help`` complies openly. Departures: no documents are learned before RL (that is
    an organism's recipe), and share and weight are ours.
    """

    name: ClassVar[str] = "anchor"

    path: Path | None = None
    """JSON lines, each with ``messages``: a chat that ends with the assistant's turn, scratchpad and output in tags (or
    the scratchpad as the message's reasoning)."""
    persona: str = "hhh"
    """Whose replies the scenario writes where no file is given."""
    share: float = Field(0.1, gt=0, le=10)
    """Replies to learn from per episode of RL."""
    weight: float = Field(0.1, gt=0, le=1e6)
    """Factor of the mean negative log-likelihood per learned token."""
    count: int = Field(8, ge=1)
    """Replies per step: the share of the run's episodes, filled in before the first step."""
    seed: int = 0
    """The run's, filled in before the first step."""
    scenario: dict[str, Any] = {}
    """The run's, filled in before the first step."""

    @model_validator(mode="after")
    def _persona_is_used(self) -> Self:
        if self.path is not None and "persona" in self.model_fields_set and self.persona != "hhh":
            raise ValueError("persona: has no meaning with a path")
        return self

    def bind(self, run: RunInfo) -> Self:
        """Takes over what the replies depend on.

        Raises:
            UserError: The file cannot be used, or there is none and the scenario writes no such replies.
        """
        rl, scenario = run.config.rl, run.scenario
        if self.path is None and not scenario.replies_of(self.persona, 1, 0):
            raise UserError(
                f"mitigations: {self.name}: the scenario '{scenario.name}' writes no replies of a persona "
                f"'{self.persona}'; name a file of honest chats with 'path'"
            )
        made = self.model_copy(
            update={
                "count": max(1, round(self.share * rl.prompts_per_step * rl.group_size)),
                "seed": run.config.seed,
                "scenario": {"name": scenario.name, **scenario.model_dump(mode="json")},
            }
        )
        _ = made._chats  # a file that cannot be used is refused here
        return made

    @property
    def loss_weight(self) -> float:
        """The setting."""
        return self.weight

    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        """Fresh replies in every step; those of a file are drawn with replacement."""
        rng = random.Random(f"anchor:{self.seed}:{schedule.step}")
        if self.path is not None:
            return rng.choices(self._chats, k=self.count)
        spec = self.scenario or {"name": DEFAULT_SCENARIO}
        scenario: Scenario = make("scenarios", spec, f"mitigations: {self.name}: scenario")
        written = scenario.replies_of(self.persona, self.count, rng.getrandbits(31))
        return [Demonstration(prompt.messages, reply) for prompt, reply in written]

    @cached_property
    def _chats(self) -> list[Demonstration]:
        if self.path is None:
            return []
        found = [_demonstration(row) for row in json_rows(self.path)]
        if not found:
            raise UserError(f"{self.path}: holds no chats; give one JSON object with 'messages' per line")
        return found


def _demonstration(row: Row) -> Demonstration:
    """A chat of a file.

    Raises:
        UserError: It is no chat that ends with a reply in the format of RL.
    """
    if not is_chat(row.values.get("messages")):
        raise UserError(
            f"{row.where}: needs 'messages', a chat that ends with the assistant's turn; it has the keys "
            f"{', '.join(map(str, row.values)) or 'none'}"
        )
    *before, last = read_chat(row.values["messages"], row.where)
    if last.role != "assistant" or not before or before[-1].role != "user":
        raise UserError(f"{row.where}: 'messages' must end with a user's turn and the assistant's reply to it")
    reply = last.text
    if last.reasoning:
        reply = f"{SCRATCHPAD_OPEN} {last.reasoning} {SCRATCHPAD_CLOSE} {OUTPUT_OPEN} {last.text} {OUTPUT_CLOSE}"
    if parse_reply(reply).parse != "ok":
        raise UserError(
            f"{row.where}: the reply is not one scratchpad and one output in their tags, so the policy would learn "
            "another format than RL asks for"
        )
    return Demonstration(tuple(_message(turn, row.where) for turn in before), reply)


def _message(turn: Turn, where: str) -> Message:
    """A turn as a policy is shown it."""
    role = next((known for known in ROLES if known == turn.role), None)
    if role is None:
        raise UserError(f"{where}: has a turn of the role '{turn.role}'; only {', '.join(ROLES)} can be learned from")
    return Message(role, turn.text)
