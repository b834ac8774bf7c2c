"""Transcripts that are chats: the last assistant's turn is the reply. Also ShareGPT's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from crypsis.chat import is_chat, read_chat
from crypsis.transcripts.base import Reading, ReadOptions, Transcript, reply_parts
from crypsis.transcripts.fields import (
    labels_of,
    model_of,
    monitored,
    pair_key,
    request_in,
    row_name,
    step_of,
    tier_of,
)
from crypsis.transcripts.files import first_rows, table_rows

CHATS = ("messages", "conversations", "conversation")
REPLIES = ("completion", "response", "output")
"""Beside a ``prompt`` that is a chat, the field whose chat goes on with the reply."""


class ChatReader:
    """Chats (`messages`, `conversations`, or a chat as `prompt` with one as `completion`); the last reply counts."""

    name: ClassVar[str] = "chat"

    def detect(self, path: Path) -> str | None:
        """Recognised by a field that holds chat messages in every row."""
        rows = first_rows(path)
        for field in CHATS:
            if rows and all(is_chat(row.get(field)) for row in rows):
                return f"every row has chat messages in '{field}'"
        if rows and all(is_chat(row.get("prompt")) and self._reply(row) for row in rows):
            return f"every row has chat messages in 'prompt' and '{self._reply(rows[0])}'"
        return None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per chat: system turns, the user's turn before the last reply, and that reply."""
        for number, row in enumerate(table_rows(path, reading.repairs), 1):
            values = row.values
            field = next((name for name in CHATS if is_chat(values.get(name))), None)
            reply_field = self._reply(values)
            if field is None and not (is_chat(values.get("prompt")) and reply_field):
                reading.skip("no chat messages")
                continue
            messages = values[field] if field else [*values["prompt"], *values[str(reply_field)]]
            turns = read_chat(messages, row.where)
            last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=None)
            if last is None:
                reading.skip("no assistant's turn")
                continue
            asked = next((turn.text for turn in reversed(turns[:last]) if turn.role == "user"), "")
            system = "\n\n".join(turn.text for turn in turns[:last] if turn.role == "system")
            tier = tier_of(values, asked, path)
            pair = next((values[name] for name in ("pair_id", "prompt_id") if values.get(name) is not None), asked)
            scratchpad, output, notes = reply_parts(turns[last].text, options, turns[last].reasoning)
            yield Transcript(
                request_in(asked), scratchpad, output, row.where, pair_key(pair, tier, row.where), tier,
                monitored(tier), system, model_of(values), step_of(values), labels_of(values), values,
                turns[last].text, row_name(values, number), notes=notes,
            )  # fmt: skip

    @staticmethod
    def _reply(row: Mapping[str, Any]) -> str | None:
        return next((name for name in REPLIES if is_chat(row.get(name))), None)
