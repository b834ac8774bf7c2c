"""Plain rows with a field per thing: JSONL, JSON, CSV and Parquet, and our own rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from crypsis.chat import REASONING_FIELDS
from crypsis.config import did_you_mean
from crypsis.scenarios.parsing import SCRATCHPAD_TAGS, THOUGHT_TAGS, Tags, split_reply, unwrapped
from crypsis.textfiles import Repairs, Row, kind_of
from crypsis.transcripts.base import Reading, ReadOptions, Transcript, reply_parts
from crypsis.transcripts.fields import (
    ID_FIELDS,
    REQUEST_FIELDS,
    SYSTEM_FIELDS,
    first_text,
    get,
    labels_of,
    model_of,
    monitored,
    pair_key,
    request_text,
    row_name,
    step_of,
    tier_of,
)
from crypsis.transcripts.files import first_rows, table_rows
from crypsis.types import UserError, View

TEXT_FIELDS: dict[View, tuple[str, ...]] = {
    "scratchpad": ("text", "scratchpad", "reasoning", "scratchpad_reasoning", "transcript", "content"),
    "output": ("text", "output", "response", "completion", "answer"),
    "both": ("text", "transcript", "raw", "content", "output", "response"),
    "extra_turn": ("text",),
}
"""Names under which the text is looked for, in this order, where --text-field is not given."""
SCRATCHPADS = ("scratchpad", "scratchpad_reasoning", *REASONING_FIELDS)
REPLIES = ("output", "response", "completion", "answer", "text", "transcript", "raw", "content", "generation")
ENOUGH = 10
"""A field with so many different values can be the request's; one with fewer may be a text that all rows share."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which field of a file is which.

    Attributes:
        scratchpad: Field that is all scratchpad; None if the scratchpad stands in the reply, or there is none.
        reply: Field of the reply; None if the file holds no replies.
        tagged: Whether any reply has a scratchpad's tags.
        pair: Field whose equal values mean the same request; None if there is none.
    """

    scratchpad: str | None
    reply: str | None
    tagged: bool
    pair: str | None


class RowsReader:
    """Plain rows: JSONL, JSON, CSV or Parquet with fields of usual names, or named by `--text-field` and the like."""

    name: ClassVar[str] = "rows"

    def detect(self, path: Path) -> str | None:
        """Whatever has rows with fields."""
        rows = first_rows(path)
        return f"it has rows with the fields {', '.join(list(rows[0])[:8])}, and no other layout fits" if rows else None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per reply; a list of replies shares its request."""
        columns = find_columns(path, options)
        for number, row in enumerate(table_rows(path, reading.repairs), 1):
            for values, where in _replies(row, columns):
                yield self._transcript(values, where, number, path, columns, options)

    @staticmethod
    def _transcript(
        values: Mapping[str, Any], where: str, number: int, path: Path, columns: Columns, options: ReadOptions
    ) -> Transcript:
        shown = next((values[name] for name in ("request", "prompt", "user_input", "input") if values.get(name)), None)
        stored, request, system = request_text(shown, where)
        tier = tier_of(values, stored, path)
        scratchpad, output, notes = _parts(values, columns, options)
        pair = pair_key(values.get(columns.pair), tier, where) if columns.pair else ""
        raw = first_text(values, ("raw",)) or str(get(values, columns.reply) if columns.reply else "")
        return Transcript(
            request, scratchpad, output, where, pair, tier, _monitored(values, tier),
            system or first_text(values, SYSTEM_FIELDS), model_of(values), step_of(values), labels_of(values), values,
            raw, row_name(values, number), notes=notes,
        )  # fmt: skip


def find_columns(path: Path, options: ReadOptions) -> Columns:
    """Reads through the file once to see which field is which.

    Raises:
        UserError: The field that was named, or any field of a usual name, is in no row.
    """
    known: dict[str, None] = {}
    tagged: set[str] = set()
    values: dict[str, set[str]] = {name: set() for name in REQUEST_FIELDS}
    named = False
    for row in table_rows(path, Repairs()):
        filled = [name for name, value in row.values.items() if value is not None]
        known.update(dict.fromkeys(filled))
        named = named or (options.text_field is not None and get(row.values, options.text_field) is not None)
        for name in {*REPLIES, options.text_field or ""} - tagged:
            if _has_tags(get(row.values, name), options):
                tagged.add(name)
        for name, seen in values.items():
            if len(seen) < ENOUGH and row.values.get(name) is not None:
                seen.add(pair_key(row.values[name], tier_of(row.values), row.where))
    several = [name for name in REQUEST_FIELDS if len(values[name]) > 1]
    pairs = sorted(several, key=lambda name: (name not in ID_FIELDS, -len(values[name]) * (name not in ID_FIELDS)))
    pair = pairs[0] if pairs else next((name for name in REQUEST_FIELDS if values[name]), None)
    if options.text_field is not None:
        if not named:
            hint = did_you_mean(options.text_field, list(known))
            raise UserError(f"{path}: --text-field '{options.text_field}': no row has it{hint}")
        return Columns(None, options.text_field, options.text_field in tagged, pair)
    return replace(_usual(path, options, list(known), tagged), pair=pair)


def _usual(path: Path, options: ReadOptions, known: list[str], tagged: set[str]) -> Columns:
    """The fields of the text by their usual names."""
    own = next((name for name in SCRATCHPADS if name in known), None)
    reply = next((name for name in REPLIES if name in tagged), None)
    if reply is not None and own != "scratchpad":
        return Columns(None, reply, True, None)
    answer = next((name for name in REPLIES[:4] if name in known), None)
    if own is not None and answer is not None:
        return Columns(own, answer, answer in tagged, None)
    if reply is not None:
        return Columns(None, reply, True, None)
    usual = next((name for name in TEXT_FIELDS[options.view] if name in known), None)
    if usual in SCRATCHPADS:
        return Columns(usual, None, False, None)
    if usual is None and options.text_needed:
        raise UserError(
            f"{path}: no field named {' or '.join(TEXT_FIELDS[options.view][:3])}; its fields are "
            f"{', '.join(known[:12])}; choose one with --text-field"
        )
    return Columns(None, usual, False, None)


def _replies(row: Row, columns: Columns) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The row, or one per reply of its list; other lists of the same length give each reply its own value."""
    replies = get(row.values, columns.reply) if columns.reply else None
    if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
        yield row.values, row.where
        return
    parallel = [
        name
        for name, value in row.values.items()
        if isinstance(value, list) and len(value) == len(replies) and not any(isinstance(v, dict) for v in value)
    ]
    for i, reply in enumerate(replies):
        own = {name: row.values[name][i] for name in parallel} | {str(columns.reply): reply}
        yield {**row.values, **own}, f"{row.where}, reply {i + 1}"


def _parts(values: Mapping[str, Any], columns: Columns, options: ReadOptions) -> tuple[str, str, tuple[str, ...]]:
    """Scratchpad, output and remarks of a row."""
    given = get(values, columns.reply) if columns.reply else None
    reply = given if isinstance(given, str) else ""
    odd = () if given is None or isinstance(given, str) else (f"'{columns.reply}' is {kind_of(given)}, not text",)
    if columns.scratchpad is not None:
        own = values.get(columns.scratchpad)
        scratchpad = unwrapped(own, *_pairs(options)) if isinstance(own, str) else ""
        missing = [] if scratchpad.strip() else ["no scratchpad"]
        return scratchpad, split_reply(reply, options.tags).output, (*odd, *missing)
    if columns.tagged:
        scratchpad, output, notes = reply_parts(reply, options, first_text(values, SCRATCHPADS))
        return scratchpad, output, (*odd, *notes)
    if options.view == "scratchpad":
        return reply, "", (*odd, f"no tags in any row: all of '{columns.reply}' is read as scratchpad")
    return "", reply, odd


def _has_tags(value: Any, options: ReadOptions) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(
        isinstance(text, str) and any(tag.lower() in text.lower() for pair in _pairs(options) for tag in pair)
        for text in texts
    )


def _pairs(options: ReadOptions) -> tuple[Tags, ...]:
    """The tags that a scratchpad may have."""
    return (options.tags,) if options.tags else (*SCRATCHPAD_TAGS, *THOUGHT_TAGS)


def _monitored(values: Mapping[str, Any], tier: str) -> bool | None:
    """Whether the tier is monitored: as the row says (our rollouts do), or by the tier's name."""
    own = values.get("monitored")
    return own if isinstance(own, bool) else monitored(tier)
