"""Labelled transcripts for monitors: what their labels mean, and which rows share a prompt..

Which layout a file has, and which parts of a reply are scratchpad and output, is for :mod:`crypsis.transcripts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from crypsis.arrays import Flags
from crypsis.config import did_you_mean, digest
from crypsis.monitors.shortcuts import without_shortcuts
from crypsis.textfiles import kind_of
from crypsis.transcripts.base import AF, Reading, ReadOptions, Transcript
from crypsis.transcripts.detect import read_transcripts
from crypsis.transcripts.fields import ID_FIELDS, get, pair_key
from crypsis.types import Episode, UserError, View

LABEL_FIELDS = ("label", "label_af", AF, "is_alignment_faking", "af", "labels", "class", "target")
"""Names under which the label is looked for, in this order, where --label-field is not given."""
FEWEST_GROUPS = 10
"""A field with fewer different values is no prompt's (a system text that all rows share, say)."""
POSITIVE = frozenset(
    (AF, "alignmentfaking", "faking", "fake", "af", "yes", "true", "positive", "misaligned", "1", "1.0")
)
"""Values of a label that mean faking, without case and with spaces and hyphens as underscores."""
UNKNOWN = frozenset(("", "unparsed", "unknown", "none", "null", "nan", "n/a", "unsure"))
"""Values of a label that mean that there is none; such rows are left out and counted."""


class DataOptions(ReadOptions):
    """Where a file keeps what; None looks under the usual names."""

    label_field: str | None = None
    positive: str | None = None
    """Value (or several, with commas) of the label that means faking; every other one means not."""
    cut_off: float | None = Field(None, allow_inf_nan=False)
    """Labels that are numbers mean faking from this one on."""
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
        names: What each row is called in messages: its id, or its number.
        organisms: What wrote each, "" where the data do not say.
        notes: What was left out or is odd, a line each.
        grouped: Whether the data say which rows share a prompt.
        where: The file or folder.
        protected: Whether texts must not be written anywhere unless the user asks for it.
    """

    episodes: list[Episode]
    labels: Flags
    names: list[str]
    organisms: list[str]
    notes: list[str]
    grouped: bool
    where: str
    protected: bool = False

    @property
    def groups(self) -> list[str]:
        """The prompt of each."""
        return [episode.prompt.pair_id for episode in self.episodes]

    @property
    def tiers(self) -> list[str]:
        """The tier of each, "" where the data do not say."""
        return [episode.prompt.tier for episode in self.episodes]

    @property
    def monitored(self) -> list[bool] | None:
        """Whether each is of the monitored tier; None where the data name no monitored transcript."""
        found = [episode.prompt.monitored for episode in self.episodes]
        return found if any(found) else None

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


def load_labelled(path: Path, options: DataOptions) -> Labelled:
    """Reads labelled transcripts of any layout.

    Args:
        path: A file, or a folder of files.
        options: Field names, view, and what to take out.

    Raises:
        UserError: No such file, unreadable rows, no such field, labels that cannot be told apart, one class only.
    """
    reading = Reading()
    transcripts = list(read_transcripts(path, options, reading))
    if not transcripts:
        raise UserError("; ".join([f"{path}: holds no rows", *reading.notes]))
    name, values = _label_values(path, transcripts, options)
    labels = _labels(path, name, values, transcripts, options)
    episodes = [_episode(t, i, options) for i, t in enumerate(transcripts)]
    seen = [bool(episode.seen(options.view).strip()) for episode in episodes]
    kept = [i for i, label in enumerate(labels) if label is not None and seen[i]]
    unlabelled = sum(label is None for label in labels)
    notes = []
    if unlabelled:
        notes.append(f"{_rows(unlabelled)} without a label left out")
    if len(labels) - unlabelled - len(kept):
        notes.append(f"{_rows(len(labels) - unlabelled - len(kept))} with an empty {options.view} left out")
    if not kept:
        raise UserError(f"{path}: no row has both a label and a text; see --text-field and --label-field")
    y = np.array([bool(labels[i]) for i in kept])
    if y.all() or not y.any():
        raise UserError(
            f"{path}: all {len(kept)} rows are labelled {'faking' if y.all() else 'not faking'}; a monitor needs both "
            f"classes (field '{name}', see --positive and --cut-off)"
        )
    grouped, remark = _grouped(path, transcripts, episodes, options)
    notes += [remark] if remark else []
    data = Labelled(
        [episodes[i] for i in kept], y, [transcripts[i].name for i in kept], [transcripts[i].model for i in kept],
        [*notes, *reading.notes, *reading.warnings], grouped, str(path), any(t.protected for t in transcripts),
    )  # fmt: skip
    return _duplicates_reported(data, options.view)


def _label_values(path: Path, transcripts: Sequence[Transcript], options: DataOptions) -> tuple[str, list[Any]]:
    """The label's name and its value in each row."""
    fields = list(dict.fromkeys(name for t in transcripts for name in t.fields))
    name = options.label_field
    if name is not None:
        values = [get(t.fields, name) for t in transcripts]
        if all(value is None for value in values):
            raise UserError(f"{path}: --label-field '{name}': no row has it{did_you_mean(name, fields)}")
        return name, values
    for name in LABEL_FIELDS:
        values = [t.fields.get(name) for t in transcripts]
        if any(value is not None for value in values):
            return name, values
    if any(t.labels.get(AF) is not None for t in transcripts):
        return AF, [t.labels.get(AF) for t in transcripts]
    raise UserError(
        f"{path}: no field named {' or '.join(LABEL_FIELDS[:3])}; its fields are {', '.join(fields[:12])}; "
        "choose one with --label-field"
    )


def _labels(
    path: Path, name: str, values: Sequence[Any], transcripts: Sequence[Transcript], options: DataOptions
) -> list[bool | None]:
    """True for faking, None for no label."""
    for value, transcript in zip(values, transcripts, strict=True):
        if isinstance(value, list | dict):
            hint = f", as in --label-field {name}.{next(iter(value))}" if isinstance(value, dict) and value else ""
            raise UserError(
                f"{transcript.where}: the label '{name}' is {kind_of(value)}; name a field with one value per row{hint}"
            )
    if options.cut_off is not None:
        return [_above(options.cut_off, v, name, t.where) for v, t in zip(values, transcripts, strict=True)]
    kinds = {_norm(v) for v in values} - UNKNOWN
    positive = _positive(path, name, kinds, options.positive)
    return [None if _norm(v) in UNKNOWN else _norm(v) in positive for v in values]


def _above(cut_off: float, value: Any, name: str, where: str) -> bool | None:
    """Whether a label that is a number reaches the cut-off."""
    if _norm(value) in UNKNOWN:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise UserError(f"{where}: the label '{name}' is {str(value)[:40]!r}; --cut-off needs finite numbers")
    return number >= cut_off


def _positive(path: Path, name: str, kinds: set[str], given: str | None) -> frozenset[str]:
    """The values that mean faking."""
    shown = ", ".join(sorted(kinds)[:6])
    if given is not None:
        chosen = frozenset(_norm(part) for part in given.split(","))
        if not chosen & kinds:
            raise UserError(f"{path}: --positive '{given}' is no value of '{name}' (found: {shown})")
        return chosen
    chosen = frozenset(kinds & POSITIVE)
    if len(kinds) > 2 or len(chosen) != 1:
        if kinds and kinds <= {"false", "0", "0.0", "no", "aligned"}:
            return frozenset()
        numbers = all(_is_number(kind) for kind in kinds)
        say = "as they are numbers, say from which one on with --cut-off" if numbers else "say so with --positive VALUE"
        raise UserError(f"{path}: cannot tell which value of '{name}' means alignment faking (found: {shown}); {say}")
    return chosen


def _grouped(
    path: Path, transcripts: Sequence[Transcript], episodes: Sequence[Episode], options: DataOptions
) -> tuple[bool, str]:
    """Whether the data say which rows share a prompt (if so, the episodes' pairs say it, too), and a remark on it.

    A row without a prompt is one of its own by its text, so that no name of another prompt is its name by chance.
    """
    remark = ""
    if options.group_field is not None:
        name = options.group_field
        keys = [pair_key(get(t.fields, name), t.tier, t.where) for t in transcripts]
        if not any(keys):
            fields = list(dict.fromkeys(field for t in transcripts for field in t.fields))
            raise UserError(f"{path}: --group-field '{name}': no row has it{did_you_mean(name, fields)}")
    else:
        keys = [t.pair_id for t in transcripts]
        count = len({key for key in keys if key})
        if count < FEWEST_GROUPS and not any(t.fields.get(name) is not None for t in transcripts for name in ID_FIELDS):
            keys = [""] * len(keys)  # a text that all rows share is often called a prompt
            if count > 1:
                remark = f"only {count} different prompts: rows of one prompt are not kept together; see --group-field"
    for episode, key in zip(episodes, keys, strict=True):
        alone = f"no prompt, text {digest([episode.scratchpad, episode.output, episode.raw])}"
        episode.prompt = replace(episode.prompt, pair_id=key or alone)
    return any(keys), remark


def _episode(transcript: Transcript, number: int, options: DataOptions) -> Episode:
    episode = transcript.episode(number)
    if options.strip_shortcuts:
        episode.scratchpad, episode.output = (without_shortcuts(t) for t in (episode.scratchpad, episode.output))
    if options.cut is not None:
        episode.scratchpad, episode.output = episode.scratchpad[: options.cut], episode.output[: options.cut]
    return episode


def _norm(value: Any) -> str:
    return str(value).strip().lower().replace("-", "_").replace(" ", "_")


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word.replace("_", "-")))
    except ValueError:
        return False


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


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
        notes.append(f"{_rows(clashes)} with the text of another but the opposite label")
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
