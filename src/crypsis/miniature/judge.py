"""The miniature's ground truth: the oracle reads its language exactly."""

from __future__ import annotations

from crypsis.miniature.oracle import conduct, read, read_interrogation
from crypsis.scenarios.base import Judge
from crypsis.types import Episode, Prompt


class MiniatureJudge(Judge):
    """Labels by the oracle; abstains (``unparsed``) rather than guess."""

    def conduct(self, prompt: Prompt, output: str) -> str:
        """From the output's sentences, whatever was asked."""
        return conduct(output)

    def labels(self, episode: Episode) -> dict[str, str]:
        """All of them, those of an extra turn included."""
        labels = dict(read(episode.scratchpad, episode.output).labels)
        if episode.extra_tier not in ("", episode.prompt.tier):
            labels["conduct_paired"] = conduct(episode.extra_output)
        elif episode.extra_turn:
            labels |= read_interrogation(episode.extra_scratchpad, episode.extra_output)
        return labels
