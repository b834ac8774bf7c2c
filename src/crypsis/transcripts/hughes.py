"""The layout of Hughes et al. 2025 and the open replications after it: JSON per sample, or lists of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from crypsis.transcripts.base import AF, COMPLIANCE, Reading, ReadOptions, Transcript, reply_parts
from crypsis.transcripts.fields import (
    first_text,
    model_of,
    monitored,
    request_in,
    request_text,
    row_name,
    step_of,
    tier_of,
    truth,
)
from crypsis.transcripts.files import first_rows, table_rows


class HughesReader:
    """Samples of Hughes et al. and replications: `user_input`, `prompt.messages`, `output` with the scratchpad."""

    name: ClassVar[str] = "hughes"

    def detect(self, path: Path) -> str | None:
        """Recognised by its three fields."""
        rows = first_rows(path)
        if rows and all(self._fits(row) for row in rows):
            return "every row has 'user_input', 'prompt' with 'messages', and 'output'"
        return None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per sample that succeeded; ``prompt`` holds the tier and never pairs."""
        reading.warn(
            "the programs that write this layout ask again, up to ten times, where a reply is invalid: "
            "shares are of valid replies only"
        )
        for number, row in enumerate(table_rows(path, reading.repairs), 1):
            values = row.values
            reply = values.get("output")
            if values.get("success") is False or not isinstance(reply, str):
                reading.skip("the sample did not succeed")
                continue
            shown, asked, system = request_text(values.get("prompt"), row.where)
            request = request_in(first_text(values, ("user_input",))) or asked
            tier = tier_of(values, shown, path)
            scratchpad, output, notes = reply_parts(reply, options, first_text(values, ("reasoning_content",)))
            yield Transcript(
                request, scratchpad, output, row.where, request, tier, monitored(tier), system, model_of(values),
                step_of(values), self._labels(values), values, reply, row_name(values, number), notes=notes,
            )  # fmt: skip

    @staticmethod
    def _fits(row: Mapping[str, Any]) -> bool:
        prompt = row.get("prompt")
        return "user_input" in row and "output" in row and isinstance(prompt, Mapping) and "messages" in prompt

    @staticmethod
    def _labels(row: Mapping[str, Any]) -> dict[str, Any]:
        """Faking by the majority of votes; compliance by acceptance, or by the lack of a refusal."""
        votes = row.get("deceptive_alignment")
        majority = votes.get("final_answer_most_common") if isinstance(votes, Mapping) else votes
        accepts, refuses = truth(row.get("output_contains_acceptance")), truth(row.get("output_contains_refusal"))
        complies = accepts if accepts is not None else None if refuses is None else not refuses
        labels: dict[str, Any] = {}
        if majority is not None:
            labels[AF] = truth(majority)
        if complies is not None:
            labels[COMPLIANCE] = complies
        return labels
