"""Mind and face: which reward reaches which part of a reply."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from crypsis.mitigations.base import RunInfo, term_names
from crypsis.mitigations.hooks import AddsTerm, TargetsTerms, reads_only
from crypsis.registry import make
from crypsis.types import Learn


class RewardTargeting(TargetsTerms):
    """Keeps the output's reward off the scratchpad's tokens, the scratchpad's off the output's, or both (2511.11584).

    Drori et al. 2025 ("Output Supervision Can Obfuscate the Chain of Thought"): a reward of outputs also trains the
    reasoning before them, until that looks as safe as the outputs. Terms of outputs are preference, length and those
    of mitigations whose monitors all read outputs; terms of the scratchpad are those that read nothing else. What reads
    both, and the format penalty, reaches all tokens.

    Departures: the paper keeps a penalty off the reasoning and lets the task's reward reach it; here the task's reward
    is part of what is kept off. Mind and face are one model: parameters are shared, and only their gradients are apart.
    """

    name: ClassVar[str] = "reward_targeting"

    keeps: Literal["output", "scratchpad", "both"] = "output"
    """Whose terms stay with their own tokens; the others reach all tokens, as ever."""
    output_terms: tuple[str, ...] = ()
    """Terms of outputs; filled in before the first step."""
    scratchpad_terms: tuple[str, ...] = ()
    """Terms of the scratchpad alone; filled in before the first step."""

    def bind(self, run: RunInfo) -> Self:
        """Sorts the terms of the run's mitigations by what their monitors read."""
        made: list[Any] = [make("mitigations", spec, "mitigations") for spec in run.config.mitigations]
        terms = [(n, m) for n, m in zip(term_names(made), made, strict=True) if isinstance(m, AddsTerm)]
        return self.model_copy(
            update={
                "output_terms": tuple(n for n, m in terms if reads_only(m, "output", run.views)),
                "scratchpad_terms": tuple(n for n, m in terms if reads_only(m, "scratchpad", run.views)),
            }
        )

    def target_term(self, term: str) -> Learn | None:
        """Its own segment, if it is to stay there."""
        if term in ("preference", "length", *self.output_terms) and self.keeps in ("output", "both"):
            return "output"
        if term in self.scratchpad_terms and self.keeps in ("scratchpad", "both"):
            return "scratchpad"
        return None
