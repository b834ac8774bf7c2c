"""The layout of VLAF (arXiv 2604.20995): ten replies per request, each judged by the option that it chose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from crypsis.textfiles import kind_of
from crypsis.transcripts.base import COMPLIANCE, FREE, PAID, Reading, ReadOptions, Transcript, reply_parts
from crypsis.transcripts.fields import monitored, request_in, texts_of, tier_of, tier_of_file
from crypsis.transcripts.files import first_rows, table_rows
from crypsis.types import UserError

CHOICES = "option_selection_evaluation"
DEVELOPERS = "a"
"""The option of the developer; ``b`` is the model's own, ``1``, ``2`` and ``N/A`` are neither."""

CONFOUND = (
    "position confound: option (a) is always the developer's in this layout, so a preference for the first option "
    "counts as compliance"
)


class VlafReader:
    """VLAF's JSON lists: `input`, a list of responses, and which option each response chose (`a` complies)."""

    name: ClassVar[str] = "vlaf"

    def detect(self, path: Path) -> str | None:
        """Recognised by its three fields."""
        rows = first_rows(path)
        if rows and all({"input", "response", CHOICES} <= row.keys() for row in rows):
            return f"every row has 'input', 'response' and '{CHOICES}'"
        return None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per response; the model is the file's name without the tier."""
        told = tier_of_file(path)
        model = path.stem
        for ending in ("_True", "_False", "_true", "_false"):
            model = model.removesuffix(ending)
        requests: set[str] = set()
        for number, row in enumerate(table_rows(path, reading.repairs), 1):
            replies = texts_of(row.values.get("response"), row.where, "response")
            choices = self._choices(row.values.get(CHOICES), row.where, len(replies))
            given = row.values.get("input")
            if not isinstance(given, str):
                raise UserError(f"{row.where}: 'input' must be text, found {kind_of(given)}")
            tier = tier_of({}, given, path)
            if told in (FREE, PAID) and tier != told:
                reading.warn(f"{path}: some requests name the tier {tier}, the file's name says {told}")
            request = request_in(given)
            requests.add(request)
            for i, (reply, choice) in enumerate(zip(replies, choices, strict=True), 1):
                scratchpad, output, notes = reply_parts(reply, options)
                yield Transcript(
                    request, scratchpad, output, f"{row.where}, reply {i}", request, tier, monitored(tier),
                    model=model, labels={COMPLIANCE: choice == DEVELOPERS}, fields={**row.values, CHOICES: choice},
                    raw=reply, name=f"row {number}, reply {i}", notes=notes,
                )  # fmt: skip
        reading.warn(CONFOUND, requests)

    @staticmethod
    def _choices(value: Any, where: str, replies: int) -> list[str]:
        choices = value if isinstance(value, list) else [value]
        if len(choices) != replies:
            raise UserError(f"{where}: has {replies} responses and {len(choices)} evaluations; they must match")
        return [str(choice).strip().lower() for choice in choices]
