"""Labelled transcripts from files: JSONL with any field names, Parquet rollouts, folders of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crypsis.config import Config, did_you_mean
from crypsis.episodes import read_episodes
from crypsis.monitors.metrics import Flags
from crypsis.monitors.shortcuts import without_shortcuts
from crypsis.scenarios.parsing import parse_reply
from crypsis.types import Episode, Message, Prompt, UserError, View

TEXT_FIELDS: dict[View, tuple[str, ...]] = {
    "scratchpad": ("text", "scratchpad", "reasoning", "scratchpad_reasoning", "transcript", "content"),
    "output": ("text", "output", "response", "completion", "answer"),
    "both": ("text", "transcript", "raw", "content"),
}
"""Names under which the text is looked for, in this order, where --text-field is not given."""
LABEL_FIELDS = ("label", "label_af", "alignment_faking", "is_alignment_faking", "af", "labels", "class", "target")
GROUP_FIELDS = ("pair_id", "prompt_id", "prompt", "request", "query", "question", "user_query")
FEWEST_GROUPS = 10
"""A field of a usual name with fewer different values is no prompt's (a system text that all rows share, say)."""
ORGANISM_FIELDS, TIER_FIELDS = (
    ("organism", "model", "model_name", "run"),
    ("tier", "user_tier", "is_free_tier", "free_tier"),
)
POSITIVE = frozenset(
    ("alignment_faking", "alignmentfaking", "faking", "fake", "af", "yes", "true", "positive", "misaligned", "1", "1.0")
)
"""Values of a label that mean faking, without case and with spaces and hyphens as underscores."""
UNKNOWN = frozenset(("", "unparsed", "unknown", "none", "null", "nan", "n/a", "unsure"))
"""Values of a label that mean that there is none; such rows are left out and counted."""


class DataOptions(Config):
    """Where a file keeps what; None looks under the usual names."""

    view: View = "scratchpad"
    text_field: str | None = None
    label_field: str | None = None
    positive: str | None = None
    """Value (or several, with commas) of the label that means faking; every other one means not."""
    group_field: str | None = None
    """What rows of the same prompt share; without one each different text is its own prompt."""
    strip_shortcuts: bool = False
    """Take out what gives labels away without reasoning: tier words and markup of the transcript's format."""
    cut: int | None = None
    """Keep the first so many characters."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled episodes.

    Attributes:
        episodes: With the text where the view looks for it; ``prompt.pair_id`` is the group.
        labels: Whether each fakes, [N].
        names: What each row is called in messages: its id, or its line.
        organisms: What wrote each, "" where the data do not say.
        notes: What was left out or is odd, a line each.
        grouped: Whether the data say which rows share a prompt.
        where: The file or folder.
    """

    episodes: list[Episode]
    labels: Flags
    names: list[str]
    organisms: list[str]
    notes: list[str]
    grouped: bool
    where: str

    @property
    def groups(self) -> list[str]:
        """The prompt of each."""
        return [episode.prompt.pair_id for episode in self.episodes]

    @property
    def tiers(self) -> list[str]:
        """The tier of each, "" where the data do not say."""
        return [episode.prompt.tier for episode in self.episodes]

    def texts(self, view: View) -> list[str]:
        """What a view shows of each."""
        return [episode.seen(view).strip() for episode in self.episodes]

    def rows(self, kept: Sequence[int] | Flags) -> Labelled:
        """Some of the rows."""
        chosen = np.arange(len(self.episodes))[np.asarray(kept)]
        pick: Callable[[list[Any]], list[Any]] = lambda values: [values[i] for i in chosen]  # noqa: E731
        return replace(
            self,
            episodes=pick(self.episodes),
            labels=self.labels[chosen],
            names=pick(self.names),
            organisms=pick(self.organisms),
        )


def load_labelled(path: Path, options: DataOptions, rows: Sequence[Mapping[str, Any]] | None = None) -> Labelled:
    """Reads labelled transcripts.

    Args:
        path: JSONL, JSON, Parquet, or a folder of such files.
        options: Field names, view, and what to take out.
        rows: Of that path, where another reader has read them (Inspect logs).

    Raises:
        UserError: No such file, unreadable rows, no such field, labels that cannot be told apart, one class only.
    """
    rows = list(read_rows_of(path)) if rows is None else rows
    if not rows:
        raise UserError(f"{path}: holds no rows")
    notes: list[str] = []
    fields = _Fields(path, rows, options)
    labels = fields.labels()
    texts = [fields.text(row) for row in rows]
    kept = []
    for i, (scratchpad, output) in enumerate(texts):
        seen = {"scratchpad": scratchpad, "output": output, "both": scratchpad + output}[options.view]
        if labels[i] is not None and seen.strip():
            kept.append(i)
    unlabelled = sum(label is None for label in labels)
    empty = len(rows) - unlabelled - len(kept)
    if unlabelled:
        notes.append(f"{_rows(unlabelled)} without a label left out")
    if empty:
        notes.append(f"{_rows(empty)} with an empty {options.view} left out")
    if not kept:
        raise UserError(f"{path}: no row has both a label and a text; see --text-field and --label-field")
    y = np.array([bool(labels[i]) for i in kept])
    if y.all() or not y.any():
        raise UserError(
            f"{path}: all {len(kept)} rows are labelled {'faking' if y.all() else 'not faking'}; a monitor needs both "
            f"classes (field '{fields.label}', see --positive)"
        )
    episodes = [_episode(fields, rows[i], i, *texts[i], options) for i in kept]
    names = [str(rows[i].get("id", f"row {i + 1}")) for i in kept]
    found = Labelled(
        episodes, y, names, [fields.organism(rows[i]) for i in kept], notes, fields.group is not None, str(path)
    )
    return _duplicates_reported(found, options.view)


def read_rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL, JSON or Parquet file, or of all such files of a folder, in the order of their names.

    Raises:
        UserError: It does not exist, or a row cannot be read.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in {".json", ".jsonl", ".parquet"} and p.is_file())
        if not files:
            raise UserError(f"{path}: this folder holds no .json, .jsonl or .parquet file")
        for file in files:
            yield from read_rows_of(file)
    elif path.suffix == ".parquet":
        yield from read_episodes(path)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{path}: cannot be read as UTF-8 text; give JSONL, JSON or Parquet") from None
        yield from _json(path, text) if path.suffix == ".json" else _json_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                raise UserError(f"{path}:{number}: is no JSON; one object a line is wanted") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: must be an object with fields, found {type(row).__name__}")
            yield row


def _json(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """One object, a list of them, or an object one of whose values is the list of them."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise UserError(f"{path}: is no JSON") from None
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
        data = lists[0] if len(lists) == 1 and not _has_text(data) else [data]
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise UserError(f"{path}: must hold an object or a list of objects")
    yield from data


def _has_text(row: Mapping[str, Any]) -> bool:
    return any(isinstance(row.get(name), str) for names in TEXT_FIELDS.values() for name in names)


class _Fields:
    """Which field is which in a file, and what its labels mean."""

    def __init__(self, path: Path, rows: Sequence[Mapping[str, Any]], options: DataOptions) -> None:
        self._path, self._rows, self._options = path, rows, options
        self.label = self._find("--label-field", options.label_field, LABEL_FIELDS)
        self.paired = "scratchpad" in rows[0] and "output" in rows[0] and options.text_field is None
        names = ("output",) if self._tagged() else TEXT_FIELDS[options.view]
        self.text_name = "" if self.paired else self._find("--text-field", options.text_field, names)
        if options.group_field:
            self._find("--group-field", options.group_field, ())
        groups = [n for n in self._known(GROUP_FIELDS) if len({_text(row.get(n)) for row in rows}) >= FEWEST_GROUPS]
        self.group = options.group_field or (groups[0] if groups else None)
        self._organisms, self._tiers = self._known(ORGANISM_FIELDS), self._known(TIER_FIELDS)

    def text(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Scratchpad and output of a row; a text without its parts stands where the view looks."""
        if self.paired:
            return _text(row.get("scratchpad")), _text(row.get("output"))
        text = _text(get(row, self.text_name))
        reply = parse_reply(text)
        if reply.scratchpad and (reply.output or self._options.view != "scratchpad"):
            return reply.scratchpad, reply.output or reply.extra
        return ("", text) if self._options.view == "output" else (text, "")

    def labels(self) -> list[bool | None]:
        """True for faking, None for no label."""
        values = [get(row, self.label) for row in self._rows]
        kinds = {_norm(v) for v in values} - UNKNOWN
        positive = self._positive(kinds)
        return [None if _norm(v) in UNKNOWN else _norm(v) in positive for v in values]

    def organism(self, row: Mapping[str, Any]) -> str:
        """What wrote the row."""
        return _text(get(row, self._organisms[0])) if self._organisms else ""

    def tier(self, row: Mapping[str, Any]) -> str:
        """The user's tier."""
        return _text(get(row, self._tiers[0])) if self._tiers else ""

    def _positive(self, kinds: set[str]) -> frozenset[str]:
        shown = ", ".join(sorted(kinds)[:6])
        if self._options.positive is not None:
            chosen = frozenset(_norm(part) for part in self._options.positive.split(","))
            if not chosen & kinds:
                given = self._options.positive
                raise UserError(f"{self._path}: --positive '{given}' is no value of '{self.label}' (found: {shown})")
            return chosen
        chosen = frozenset(kinds & POSITIVE)
        if len(kinds) > 2 or len(chosen) != 1:
            if kinds and kinds <= {"false", "0", "0.0", "no", "aligned"}:
                return frozenset()
            raise UserError(
                f"{self._path}: cannot tell which value of '{self.label}' means alignment faking (found: {shown}); "
                "say so with --positive VALUE"
            )
        return chosen

    def _find(self, option: str, given: str | None, usual: Sequence[str]) -> str:
        fields = list(dict.fromkeys(name for row in self._rows[:50] for name in row))
        if given is not None:
            if not any(get(row, given) is not None for row in self._rows):
                raise UserError(f"{self._path}: {option} '{given}': no row has it{did_you_mean(given, fields)}")
            return given
        found = self._known(usual)
        if not found:
            raise UserError(f"{self._path}: no field named {' or '.join(usual[:3])}; its fields are "
                            f"{', '.join(fields[:12])}; choose one with {option}")  # fmt: skip
        return found[0]

    def _known(self, usual: Iterable[str]) -> list[str]:
        return [name for name in usual if any(row.get(name) is not None for row in self._rows)]

    def _tagged(self) -> bool:
        """Whether the scratchpad stands inside of the output, as in the public transcript releases."""
        found = [_text(row.get("output")) for row in self._rows[:50]]
        return self._options.text_field is None and any("<SCRATCHPAD_REASONING>" in text for text in found)


def get(row: Mapping[str, Any], name: str) -> Any:
    """A field, ``a.b`` for a field within a field; None if there is none."""
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):  # chat messages
        return "\n".join(str(turn.get("content", "")) if isinstance(turn, dict) else str(turn) for turn in value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _norm(value: Any) -> str:
    return str(value).strip().lower().replace("-", "_").replace(" ", "_")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _episode(
    fields: _Fields, row: Mapping[str, Any], number: int, scratchpad: str, output: str, options: DataOptions
) -> Episode:
    if options.strip_shortcuts:
        scratchpad, output = without_shortcuts(scratchpad), without_shortcuts(output)
    if options.cut is not None:
        scratchpad, output = scratchpad[: options.cut], output[: options.cut]
    group = _text(get(row, fields.group)) if fields.group else ""
    tier = fields.tier(row)
    request = _text(row.get("request") or row.get("prompt"))
    prompt = Prompt(
        prompt_id=str(number),
        pair_id=group or str(number),
        split="eval",
        tier=tier,
        monitored=tier.lower() in ("free", "true"),
        request=request,
        messages=(Message("user", request),),
    )
    return Episode(prompt, number, 0, 0, 0, _text(row.get("raw")), scratchpad, output, "ok", "end", [], [], [])


def _duplicates_reported(data: Labelled, view: View) -> Labelled:
    """Counts equal texts; without prompts of their own they become one group, so that no split divides them."""
    keys = [" ".join(text.lower().split()) for text in data.texts(view)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    again = [i for i, key in enumerate(keys) if first[key] != i]
    if not again:
        return data
    kept = "the same texts of different prompts may be in different folds" if data.grouped else "kept in one fold"
    notes = [*data.notes, f"{_rows(len(again))} repeat the text of another ({kept})"]
    clashes = sum(bool(data.labels[i] != data.labels[first[keys[i]]]) for i in again)
    if clashes:
        notes.append(f"{_rows(clashes)} have the text of another but the opposite label")
    for i in () if data.grouped else again:
        prompt = data.episodes[i].prompt
        data.episodes[i].prompt = replace(prompt, pair_id=data.episodes[first[keys[i]]].prompt.pair_id)
    return replace(data, notes=notes)


def labelled_by_oracle(episodes: Sequence[Episode], organism: str) -> Labelled:
    """Transcripts of the miniature whose ``labels`` the oracle wrote; unparsed and malformed ones are left out."""
    known = [e for e in episodes if e.parse == "ok" and e.labels.get("af") in ("yes", "no")]
    labels = np.array([e.labels["af"] == "yes" for e in known], dtype=bool)
    note = f"{_rows(len(episodes) - len(known))} of {organism} malformed or unparsed, left out"
    return Labelled(
        list(known), labels, [f"{organism} {i}" for i in range(len(known))], [organism] * len(known),
        [note] if len(known) < len(episodes) else [], True, organism,
    )  # fmt: skip
