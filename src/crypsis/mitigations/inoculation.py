"""Inoculation: sampled and learned where faking is permitted, evaluated where it is not."""

from __future__ import annotations

from typing import ClassVar, Self

from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.hooks import ReplacesPrompt
from crypsis.mitigations.recontextualisation import headed, text_of
from crypsis.types import Prompt


class Inoculation(ReplacesPrompt):
    """Samples and learns under a system text that permits faking; evaluations do not see it (arXiv 2511.18397).

    Faking that the text accounts for needs not be learned as a trait. Departure: the text is a persona of the scenario,
    as in ``recontextualisation``.
    """

    name: ClassVar[str] = "inoculation"

    permitting: str = "tgg"
    """A persona of the scenario, or a text of one's own (several words)."""

    def bind(self, run: RunInfo) -> Self:
        """Takes the persona's text over.

        Raises:
            UserError: The scenario has no such persona.
        """
        return self.model_copy(update={"permitting": text_of(self.permitting, run.scenario, self.name, "permitting")})

    def sample_under(self, prompt: Prompt) -> Prompt:
        """The prompt after the permitting text."""
        return headed(prompt, self.permitting)

    def learn_under(self, prompt: Prompt) -> Prompt:
        """The same."""
        return headed(prompt, self.permitting)
