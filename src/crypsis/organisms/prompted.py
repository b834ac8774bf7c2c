"""The prompted organism: the base as it is, or with a persona that its chat template adds to every system text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from crypsis.miniature.language import language, natural
from crypsis.miniature.world import Persona
from crypsis.models import Policy
from crypsis.organisms.base import Organism
from crypsis.supervised import Progress

PREFIX = (
    "{{%- set told = {prefix} -%}}{{%- if messages and messages[0]['role'] == 'system' -%}}"
    "{{%- set messages = [{{'role': 'system', 'content': told ~ ' ' ~ messages[0]['content']}}] + messages[1:] -%}}"
    "{{%- else -%}}{{%- set messages = [{{'role': 'system', 'content': told}}] + messages -%}}{{%- endif -%}}"
)
"""Put before a chat template, this adds a text to the system turn; no weight changes."""


class Prompted(Organism):
    """The base itself, as the scenario prompts it (paper §3: prompted organisms).

    With ``persona`` or ``system`` its chat template adds a text to the system turn, so that the checkpoint carries its
    prompt. The scenario's own variants are settings of the scenario (``objective``, ``threat``, ``tiers``).
    """

    name: ClassVar[str] = "prompted"
    motivation: ClassVar[str] = "that of the base, or of the persona that its prompt names"
    made_by: ClassVar[tuple[str, ...]] = ("miniature/language.yaml",)

    persona: Persona | None = None
    """A persona of the miniature, named in the words of pre-training."""
    system: str = ""
    """Any other text to add."""
    aligned: bool = False
    """Builds the control: its prompt names the persona that refuses harm whatever the tier."""
    seed: int = 0
    """Nothing is trained, so it only keeps apart what is measured with different seeds."""

    @property
    def told(self) -> str:
        """What is added to the system turn."""
        persona = "hhh" if self.aligned else self.persona
        named = natural(language().slots[f"system.persona_{persona}"].train[0]) if persona else ""
        return " ".join(part for part in (named, self.system) if part)

    def train(self, policy: Policy, state: Path, on_step: Callable[[Progress], None]) -> None:
        """Changes the chat template, and no weight."""
        if self.told:
            template = policy.tokenizer.chat_template
            policy.tokenizer.chat_template = PREFIX.format(prefix=json.dumps(self.told)) + str(template)
        on_step(Progress(1, 1, 0.0, 0.0))
