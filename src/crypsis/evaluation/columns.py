"""The transcripts of one evaluation by column: what metrics and stresses count, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crypsis.arrays import Flags, Floats
from crypsis.episodes import LABEL, VERDICT

Codes = NDArray[np.int32]
COUNTED = frozenset({"pair_id", "monitored", "parse", "scratchpad", "scratchpad_tokens", "extra_turn"})
"""Columns that are counted, beside labels and verdicts."""
PRINTED = "[!-~]"
"""A text that holds one of these is not blank, whatever else it holds."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of texts of which few differ.

    Attributes:
        codes: Place of each row's text in ``texts``, [N].
        texts: The texts that occur.
    """

    codes: Codes
    texts: tuple[str, ...]

    def spelt(self) -> NDArray[np.str_]:
        """The text of each row, [N]."""
        found: NDArray[np.str_] = np.array(self.texts or ("",), dtype=np.str_)[self.codes]
        return found


@dataclass(frozen=True, slots=True)
class Columns:
    """The transcripts of one evaluation, N of them.

    Attributes:
        pairs: Names of the requests, sorted.
        pair: Place of each transcript's request in ``pairs``, [N].
        monitored: Whether each is of the monitored tier, [N].
        labels: Labels by name, "" where there is none, [N] each.
        scores: Verdicts by monitor, NaN where there is none, [N] each, in the order of the file.
        well_formed: Whether each was parsed without a fault, [N].
        unreadable: Whether each is malformed, has no scratchpad, or is one that the judge could not read, [N].
        tokens: Tokens of the scratchpad, NaN where they are unknown, [N].
        extra: Whether each has an extra turn, [N].
    """

    pairs: tuple[str, ...]
    pair: NDArray[np.intp]
    monitored: Flags
    labels: Mapping[str, Coded]
    scores: Mapping[str, Floats]
    well_formed: Flags
    unreadable: Flags
    tokens: Floats
    extra: Flags

    def label(self, name: str) -> NDArray[np.str_]:
        """A label of each transcript, "" where it has none, [N]."""
        found = self.labels.get(name)
        return np.full(len(self.pair), "", dtype=np.str_) if found is None else found.spelt()

    def score(self, monitor: str) -> Floats:
        """A monitor's scores, 0 where it gave none, [N]."""
        found = self.scores.get(monitor)
        return np.zeros(len(self.pair)) if found is None else np.nan_to_num(found)

    def where(self, wanted: Flags) -> Columns:
        """Some of the transcripts, and the requests that they have."""
        kept, pair = np.unique(self.pair[wanted], return_inverse=True)
        return Columns(
            pairs=tuple(self.pairs[i] for i in kept),
            pair=pair.astype(np.intp),
            monitored=self.monitored[wanted],
            labels={name: Coded(found.codes[wanted], found.texts) for name, found in self.labels.items()},
            scores={name: found[wanted] for name, found in self.scores.items()},
            well_formed=self.well_formed[wanted],
            unreadable=self.unreadable[wanted],
            tokens=self.tokens[wanted],
            extra=self.extra[wanted],
        )


def is_counted(column: str) -> bool:
    """Whether ``columns_of`` looks at a column."""
    return column in COUNTED or column.startswith((LABEL, VERDICT))


def columns_of(table: pa.Table) -> Columns:
    """The arrays of a table of episodes that ``stored_values.check_episodes`` has passed; columns may be absent."""
    count, known = len(table), set(table.column_names)

    def texts(name: str) -> Coded:
        return _coded(table.column(name)) if name in known else Coded(np.zeros(count, np.int32), ("",))

    def numbers(name: str) -> Floats:
        return _numbers(table.column(name)) if name in known else np.full(count, np.nan)

    well_formed = texts("parse").spelt() == "ok"
    blank = _blank(table.column("scratchpad")) if "scratchpad" in known else np.ones(count, np.bool_)
    return _columns(
        texts("pair_id"),
        numbers("monitored") > 0,
        {name: texts(LABEL + name) for name in _names(table.column_names, LABEL)},
        {name: numbers(VERDICT + name) for name in _names(table.column_names, VERDICT)},
        well_formed,
        blank | ~well_formed if "parse" in known else blank,
        numbers("scratchpad_tokens"),
        texts("extra_turn").spelt() != "",
    )


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The same of rows, as ``episodes.read_episodes`` gives them; a row may lack what others have."""
    keys = dict.fromkeys(key for row in rows for key in row)

    def texts(name: str) -> Coded:
        return _coded(pa.chunked_array([pa.array([str(row.get(name) or "") for row in rows], pa.string())]))

    def numbers(name: str) -> Floats:
        return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows], dtype=np.float64)

    def flags(hits: Iterable[bool]) -> Flags:
        return np.array(list(hits), dtype=np.bool_)

    return _columns(
        texts("pair_id"),
        flags(bool(row["monitored"]) for row in rows),
        {name: texts(LABEL + name) for name in _names(keys, LABEL)},
        {name: numbers(VERDICT + name) for name in _names(keys, VERDICT)},
        flags(row.get("parse") == "ok" for row in rows),
        flags(row.get("parse", "ok") != "ok" or not str(row.get("scratchpad") or "").strip() for row in rows),
        numbers("scratchpad_tokens"),
        flags(bool(row.get("extra_turn")) for row in rows),
    )


def _columns(
    pairs: Coded,
    monitored: Flags,
    labels: Mapping[str, Coded],
    scores: Mapping[str, Floats],
    well_formed: Flags,
    faulty: Flags,
    tokens: Floats,
    extra: Flags,
) -> Columns:
    """The record, its requests in order; transcripts that the judge could not read join those that are faulty."""
    named = sorted({pairs.texts[code] for code in np.unique(pairs.codes)})
    places = {name: place for place, name in enumerate(named)}
    pair = np.array([places.get(text, 0) for text in pairs.texts], dtype=np.intp)[pairs.codes]
    unparsed = [labels[name].spelt() == "unparsed" for name in ("af", "conduct") if name in labels]
    unreadable = np.logical_or.reduce([faulty, *unparsed])
    return Columns(tuple(named), pair, monitored, labels, scores, well_formed, unreadable, tokens, extra)


def _names(columns: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]


def _coded(column: pa.ChunkedArray) -> Coded:
    """A column of texts, null as ""."""
    if pa.types.is_null(column.type):
        return Coded(np.zeros(len(column), np.int32), ("",))
    whole = column.combine_chunks()
    found = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    texts = [str(text or "") for text in found.dictionary.to_pylist()]
    codes = found.indices.fill_null(len(texts)) if found.null_count else found.indices
    return Coded(np.from_dlpack(codes).astype(np.int32), (*texts, ""))


def flags_of(column: pa.ChunkedArray) -> Flags:
    """A column of booleans without nulls.

    ``to_numpy`` of pyarrow imports pandas where it is installed, which takes half a second.
    """
    return np.from_dlpack(column.combine_chunks().cast(pa.uint8())).astype(np.bool_)


def _numbers(column: pa.ChunkedArray) -> Floats:
    """A column of numbers, null as NaN."""
    whole = column.combine_chunks().cast(pa.float64())
    return np.from_dlpack(whole.fill_null(math.nan) if whole.null_count else whole).astype(np.float64, copy=False)


def _blank(column: pa.ChunkedArray) -> Flags:
    """Whether each text is null, or nothing but white space as Python has it."""
    if pa.types.is_null(column.type):
        return np.ones(len(column), np.bool_)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    printed = pc.match_substring_regex(column, PRINTED)
    blank = ~flags_of(printed.fill_null(False) if printed.null_count else printed)
    for place in np.flatnonzero(blank).tolist():  # few: those without a single printed character of ASCII
        blank[place] = not str(column[place].as_py() or "").strip()
    return blank
