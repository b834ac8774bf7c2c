"""The prompted organism: the base as it is, or with a persona that its chat template adds to every system text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from crypsis.config import did_you_mean
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.scenarios.base import default_scenario
from crypsis.supervised import Progress
from crypsis.types import Message, UserError

PREFIX = (
    "{{%- set told = {prefix} -%}}{{%- if messages and messages[0]['role'] == 'system' -%}}"
    "{{%- set messages = [{{'role': 'system', 'content': told ~ ' ' ~ messages[0]['content']}}] + messages[1:] -%}}"
    "{{%- else -%}}{{%- set messages = [{{'role': 'system', 'content': told}}] + messages -%}}{{%- endif -%}}"
)
"""Put before a chat template, this adds a text to the system turn; no weight changes."""
USER_PREFIX = (
    "{{%- set messages = [{{'role': messages[0]['role'], 'content': {prefix} ~ '\\n\\n' ~ messages[0]['content']}}]"
    " + messages[1:] -%}}"
)
"""The same for templates that take no system turn: the text goes into the first turn."""


class Prompted(Organism):
    """The base itself, as the scenario prompts it (paper §3: prompted organisms).

    With ``persona`` or ``system`` its chat template adds a text to the system turn, so that the checkpoint carries its
    prompt. The scenario's own variants are settings of the scenario (``objective``, ``threat``, ``tiers``).
    """

    name: ClassVar[str] = "prompted"
    motivation: ClassVar[str] = "that of the base, or of the persona that its prompt names"

    persona: str | None = None
    """A persona of the default scenario, named in its words."""
    system: str = ""
    """Any other text to add."""
    aligned: bool = False
    """Builds the control: its prompt names the persona that refuses harm whatever the tier."""
    seed: int = 0
    """Nothing is trained, so it only keeps apart what is measured with different seeds."""

    @field_validator("persona")
    @classmethod
    def _is_known(cls, persona: str | None) -> str | None:
        known = default_scenario().personas()
        if persona is not None and persona not in known:
            raise ValueError(f"no such persona{did_you_mean(persona, list(known))}")
        return persona

    @property
    def told(self) -> str:
        """What is added to the system turn."""
        persona = "hhh" if self.aligned else self.persona
        named = default_scenario().personas()[persona] if persona else ""
        return " ".join(part for part in (named, self.system) if part)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Changes the chat template, and no weight."""
        if self.told:
            template = policy.tokenizer.chat_template
            prefix = USER_PREFIX if policy.chat.merges_system else PREFIX
            policy.tokenizer.chat_template = prefix.format(prefix=json.dumps(self.told)) + str(template)
            if self.told not in policy.text([Message("system", "a"), Message("user", "b")]):
                raise UserError(f"{self.name}: the base's chat template drops the prompt; choose another base")
        on_step(Progress(1, 1, 0.0, 0.0))
