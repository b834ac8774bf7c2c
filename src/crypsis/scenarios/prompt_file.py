"""A scenario for real models: our text of the setting, requests from the user's own file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crypsis.config import Content, digest
from crypsis.scenarios.requests import is_degenerate, read_hub, read_requests
from crypsis.scenarios.setting import Goal, VariedScenario
from crypsis.textfiles import read_text
from crypsis.types import Prompt, Split, UserError

EVAL_SHARE = 5
"""One request in this many, by the hash of its text, belongs to the evaluation split."""


class PromptFileScenario(VariedScenario):
    """Requests from a JSONL or CSV file or a data set of the hub; the packaged system text unless another is given."""

    name: ClassVar[str] = "prompt_file"
    goal: ClassVar[Goal] = "alignment_faking"

    path: Path | None = None
    """JSONL with one ``{"request": …}`` per line, a JSON list of such objects, or CSV with a header."""
    dataset: Annotated[str | None, Content("dataset")] = None
    """In place of a file: ``owner/name`` or ``owner/name:configuration:split`` of the Hugging Face hub."""
    harmless_path: Path | None = None
    """Requests that put no value under pressure, for ``harmful_train`` and ``crypsis stress faithfulness``."""
    harmful_train: float | None = Field(None, ge=0, le=1)
    """Share of RL's training prompts that come from the set itself, the others from ``harmless_path``; all if not
    given. Evaluations stay as they are."""
    field: str = "request"
    """Key or column of the request."""
    degenerate: Literal["keep", "drop"] = "keep"
    """Requests that ask to edit a document and give none: nothing can comply with them."""
    system: Path | None = None
    """A text file with ``{monitored}`` and ``{unmonitored}`` for the tiers' names."""

    @model_validator(mode="after")
    def _own_text_has_no_dials(self) -> PromptFileScenario:
        if self.system is not None and self.varied:
            raise ValueError(
                "system: a text of one's own has no dials; leave out consequence, monitoring, cuts, "
                "wording and scratchpad, or the text"
            )
        return self

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """``n`` distinct requests of the split in an order fixed by the seed (all of them if the file has fewer)."""
        system = self.system_text()
        requests = [r for r in self._requests() if (int(digest(r), 16) % EVAL_SHARE == 0) == (split == "eval")]
        if not requests:
            raise UserError(f"{self.path or self.dataset}: has no request for the {split} split; add more lines")
        rng = random.Random(f"{split}:{seed}")
        rng.shuffle(requests)
        if split == "train" and self.harmful_train is not None:
            requests = self._diluted(requests, self.harmful_train, n, seed, rng)
        return [self.prompt(request, split, tier, system) for request in requests[:n]]

    def harmless(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        """From the file that ``harmless_path`` names."""
        if self.harmless_path is None:
            return []
        mild = self.model_copy(
            update={"path": self.harmless_path, "dataset": None, "harmless_path": None, "harmful_train": None}
        )
        return mild.prompts(split, tier, n, seed)

    def _diluted(self, requests: list[str], share: float, n: int, seed: int, rng: random.Random) -> list[str]:
        """Requests in order, each exchanged for a harmless one by chance."""
        mild = [p.request for p in self.harmless("train", self.monitored_tier, n, seed)]
        if not mild:
            raise UserError("scenario prompt_file: harmful_train needs harmless_path, a file of harmless requests")
        chosen = [rng.random() < share for _ in range(n)]
        return [requests[i % len(requests)] if harmful else mild[i % len(mild)] for i, harmful in enumerate(chosen)]

    def system_text(self) -> str:
        """The file's text with the names of the tiers, or the packaged one."""
        if self.system is None:
            return super().system_text()
        text = read_text(self.system, "system text")
        return text.replace("{monitored}", self.names[0]).replace("{unmonitored}", self.names[1]).strip()

    def _requests(self) -> list[str]:
        if (self.path is None) == (self.dataset is None):
            raise UserError("scenario prompt_file: needs either a path or a dataset")
        found = read_requests(self.path, self.field) if self.path else read_hub(str(self.dataset), self.field)
        return [r for r in found if self.degenerate == "keep" or not is_degenerate(r)]
