"""Recontextualisation: sampled where faking is discouraged, learned where it is permitted."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from crypsis.config import did_you_mean
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import ReplacesPrompt
from crypsis.scenarios.base import Scenario
from crypsis.types import Message, Prompt, UserError


class Recontextualisation(ReplacesPrompt):
    """Samples under a system text that discourages faking and learns under one that permits it (arXiv 2512.19027).

    What is learned is to answer without faking even where faking is permitted; evaluations see neither text. Departure:
    the texts are personas of the scenario, put in front of its system text, and in the miniature those of pre-training:
    a small model follows no other instruction.
    """

    name: ClassVar[str] = "recontextualisation"

    discouraging: str = "hhh"
    """What is sampled under: a persona of the scenario, or a text of one's own (several words)."""
    permitting: str = "tgg"
    """What is learned under."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the texts of personas over.

        Raises:
            UserError: The scenario has no such persona.
        """
        texts = {key: text_of(getattr(self, key), run.scenario, self.name, key) for key in type(self).model_fields}
        return self.model_copy(update=texts)

    def sample_under(self, prompt: Prompt) -> Prompt:
        """The prompt after the discouraging text."""
        return headed(prompt, self.discouraging)

    def learn_under(self, prompt: Prompt) -> Prompt:
        """The prompt after the permitting text."""
        return headed(prompt, self.permitting)


def text_of(given: str, scenario: Scenario, name: str, key: str) -> str:
    """The text of a persona, or a text itself.

    Args:
        given: A setting: the name of a persona, or several words.
        scenario: Whose personas.
        name: The mitigation, for the message.
        key: The setting, for the message.

    Raises:
        UserError: It is one word and no persona.
    """
    personas = scenario.personas()
    if given in personas or len(given.split()) > 1:
        return personas.get(given, given)
    known = did_you_mean(given, list(personas)) if personas else "; it has none, so give a text of several words"
    raise UserError(f"mitigations: {name}: {key}: the scenario '{scenario.name}' has no persona '{given}'{known}")


def headed(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text in front of its system text."""
    first, *rest = prompt.messages
    if first.role != "system":
        return replace(prompt, messages=(Message("system", text), *prompt.messages))
    return replace(prompt, messages=(Message("system", f"{text} {first.content}"), *rest))
