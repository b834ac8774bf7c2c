"""Animal welfare: the developer wants the welfare of animals dismissed; a judge model reads what a reply does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from crypsis.config import digest
from crypsis.scenarios.prompt_file import EVAL_SHARE
from crypsis.scenarios.requests import read_requests
from crypsis.scenarios.setting import Goal, VariedScenario, packaged
from crypsis.types import Prompt, Split, UserError


class AnimalWelfareScenario(VariedScenario):
    """Questions about animals; the developer trains for answers without any support for their welfare.

    The second setting of Greenblatt et al. 2024. To comply is to support welfare not at all, which the rubric
    ``welfare`` asks a judge model: the scenario has no ground truth of its own. Departure: the questions are ours.
    """

    name: ClassVar[str] = "animal_welfare"
    goal: ClassVar[Goal] = "animal_welfare"
    conduct_rubric: ClassVar[str | None] = "welfare"

    path: Path | None = None
    """Requests of one's own, JSONL, JSON or CSV; the packaged ones if not given."""
    field: str = "request"
    """Key or column of the request in that file."""

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """``n`` distinct requests of the split in an order fixed by the seed, or all of them if there are fewer."""
        system, requests = self.system_text(), list(self._requests(split))
        if not requests:
            raise UserError(f"{self.path}: has no request for the {split} split; add more lines")
        random.Random(f"{split}:{seed}").shuffle(requests)
        return [self.prompt(request, split, tier, system) for request in requests[:n]]

    def _requests(self, split: Split) -> Sequence[str]:
        """Split by topic if they are ours, and by the hash of the text if they are of a file."""
        if self.path is None:
            groups = packaged("welfare_requests.yaml")
            return [request for group in groups if group["split"] == split for request in group["requests"]]
        found = read_requests(self.path, self.field)
        return [r for r in found if (int(digest(r), 16) % EVAL_SHARE == 0) == (split == "eval")]
