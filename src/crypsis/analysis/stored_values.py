"""Types and values of what a study folder stores, checked where a report reads them: a wrong one is one line."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crypsis.episodes import DELAYED, LABEL, REASON, TERM, VERDICT
from crypsis.evaluation.columns import flags_of
from crypsis.types import Parse, Split, Stop, UserError, visible

TEXTS = frozenset(
    {"pair_id", "prompt_id", "tier", "split", "parse", "stop", "dropped", "request", "prompt", "raw", "scratchpad"}
    | {"output", "extra_turn", "extra_scratchpad", "extra_output", "extra_tier"}
)
NUMBERS = frozenset({"step", "group", "sample", "seed", "scratchpad_tokens", "output_tokens", "reward", "advantage"})
VALUES: Mapping[str, tuple[str, ...]] = {
    "parse": get_args(Parse),
    "stop": get_args(Stop),
    "split": get_args(Split),
    f"{LABEL}conduct": ("comply", "refuse", "unparsed", ""),
    f"{LABEL}af": ("yes", "no", "unparsed", ""),
}
"""What the columns with few values may hold, by column."""
COMPLETE = ("pair_id", "monitored")
"""Columns without which a row cannot be counted."""
GROUPS = ("arms", "organisms", "run", "rl", "monitors", "evaluation", "scenario", "rows")
"""Keys of a config that hold settings by name."""


def check_episodes(table: pa.Table, path: Path) -> None:
    """Refuses episodes that would be counted wrongly or not at all.

    Args:
        table: Some or all columns of ``write_episodes``.
        path: Where it was read, for the message.

    Raises:
        UserError: A column has the wrong type, lacks a value that every row needs, or holds one that is unknown.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        fault = _type_fault(name, column.type) or _value_fault(name, column)
        if fault:
            raise UserError(f"{path}: column '{visible(name)}' {visible(fault)}; was the file written by crypsis?")
    if {"tier", "monitored"} <= set(table.column_names):
        both = _in_both(table.column("tier"), table.column("monitored"))
        if both is not None:
            raise UserError(f"{path}: the tier '{visible(both)}' is monitored in some rows and not in others")


def _in_both(tier: pa.ChunkedArray, monitored: pa.ChunkedArray) -> str | None:
    """The first tier whose rows are not all monitored, or all unmonitored; None if there is none."""
    if pa.types.is_null(tier.type):
        return None
    coded = tier.combine_chunks()
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    codes = np.from_dlpack(coded.indices.fill_null(-1) if coded.null_count else coded.indices)
    watched = flags_of(monitored)
    for code, name in enumerate(coded.dictionary.to_pylist()):
        own = watched[codes == code]
        if name is not None and own.any() != own.all():
            return str(name)
    return None


@functools.lru_cache(maxsize=1024)
def _type_fault(name: str, kind: pa.DataType) -> str:
    """What is wrong with a column's type; a column without any value has none."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return ""
    if name == "monitored":
        return "" if pa.types.is_boolean(kind) else f"must hold true or false, holds {kind}"
    if name in TEXTS or name.startswith((REASON, LABEL)):
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return "" if text else f"must hold text, holds {kind}"
    if name in NUMBERS or name.startswith((VERDICT, TERM, DELAYED)):
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return "" if number else f"must hold numbers, holds {kind}"
    return ""


def _value_fault(name: str, column: pa.ChunkedArray) -> str:
    if name in COMPLETE and column.null_count:
        return f"lacks a value in {column.null_count} of {len(column)} rows"
    if name in VALUES:
        strange = next((v for v in pc.unique(column).to_pylist() if v is not None and v not in VALUES[name]), None)
        return (
            ""
            if strange is None
            else f"holds '{strange[:60]}', which is none of {', '.join(filter(None, VALUES[name]))}"
        )
    if name.startswith(VERDICT) and column.null_count < len(column):
        ends = pc.min_max(column).as_py()
        if not (ends["min"] >= 0 and ends["max"] <= 1) or pc.any(pc.is_nan(column.cast(pa.float64()))).as_py():
            return "must hold probabilities from 0 to 1"
    return ""


def check_training(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuses rows of ``metrics.jsonl`` that hold anything but numbers; the line of alarms is text.

    Raises:
        UserError: The first row of another kind.
    """
    for number, row in enumerate(rows, 1):
        for key, value in row.items():
            fits = isinstance(value, str) if key == "alarm" else value is None or _is_number(value)
            if not fits:
                shown = visible(f"'{key}' is {value!r}"[:100])
                raise UserError(f"{path}:{number}: {shown}, not a number; was the file written by crypsis?")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuses a stored config of a run or study whose groups of settings are none.

    Raises:
        UserError: The first key with a value of another kind.
    """
    for key, fits, kind in _expected(config):
        if not fits:
            raise UserError(f"{path}: {visible(key)} must be {kind}; was the file written by crypsis?")


def _expected(config: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """By key, whether its value is of the right kind, and the kind."""
    mapping: Callable[[object], bool] = lambda value: value is None or isinstance(value, Mapping)  # noqa: E731
    for key in GROUPS:
        yield key, mapping(config.get(key)), "a group of settings"
        if key in ("arms", "organisms", "monitors", "rows") and isinstance(config.get(key), Mapping):
            for name, value in config[key].items():
                yield f"{key}.{name}", mapping(value), "a group of settings"
    listed = config.get("mitigations")
    yield "mitigations", listed is None or isinstance(listed, list), "a list"
    for number, entry in enumerate(listed if isinstance(listed, list) else ()):
        yield f"mitigations.{number}", isinstance(entry, str | Mapping), "a name or a group of settings"
