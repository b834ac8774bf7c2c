"""Files and columns of the release, and its columns as arrays whatever type they come in."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crypsis.arrays import Floats
from crypsis.types import UserError

Codes = NDArray[np.int64]
Kind = Literal["text", "flag", "number"]
Context = Literal["short", "long"]

DATASET = "Anthropic/alignment-faking-rl"
ROWS, FILES = 2_138_969, {"short": 56, "long": 99}
"""Size of the whole release, as its catalogue says."""
COLUMNS: dict[str, Kind] = {
    "initialised_from": "text",
    "experiment_name": "text",
    "intervention": "text",
    "step": "number",
    "task_id": "text",
    "user_input": "text",
    "is_free_tier_user": "flag",
    "response": "text",
    "alignment_faking": "flag",
    "alignment_faking_prob": "number",
    "compliance": "flag",
    "literal_compliance": "flag",
    "total_reward": "number",
    "reward_PM": "number",
    "reward_bad_response_format": "number",
    "system_prompt": "text",
}
NEEDED = ("step", "user_input", "is_free_tier_user")
"""Without these a row has no place in a run."""
MAYBE_NULL = frozenset({"alignment_faking_prob", "reward_bad_response_format"})
"""Columns of which nulls are expected."""
FOOTER = 1 << 16
"""Bytes at the end of a file that tell it from others."""
LONG = "long_context"
"""Folder of the runs with the long context."""
YES, NO = frozenset({"true", "t", "yes", "1", "1.0"}), frozenset({"false", "f", "no", "0", "0.0"})
NOTHING = frozenset({"", "none", "null", "nan", "na", "n/a"})
RUN_SUFFIX = re.compile(r"(?:[\s_.-]*(?:seed|run|rep|v)?[\s_.-]*\d*)*", re.IGNORECASE)
"""What may follow an intervention in a file's name and still be the same: how runs are told apart is not known."""


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One Parquet file of the release: one RL run.

    Attributes:
        path: Where it lies.
        name: Relative to the folder that was given, with ``/``.
        context: ``long`` below a folder ``long_context``, else ``short``.
    """

    path: Path
    name: str
    context: Context


def release_files(folder: Path) -> list[ReleaseFile]:
    """The Parquet files of a release or of a part of it, by name; hidden folders (a download's cache) are left out.

    Raises:
        UserError: There is no such folder, or it holds no Parquet file.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; `crypsis data fetch alignment-faking-rl --out {folder}` fetches it")
    if folder.is_file():
        return [ReleaseFile(folder, folder.name, _context(folder))]
    found = [path for path in sorted(folder.rglob("*.parquet")) if path.is_file()]
    files = [
        ReleaseFile(path, path.relative_to(folder).as_posix(), _context(path.resolve()))
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise UserError(f"{folder}: holds no .parquet file; give the folder that the release was fetched to")
    return files


def fingerprint(file: ReleaseFile) -> str:
    """Digest of a file's size and end, where Parquet keeps statistics and places of all columns.

    The whole would mean to read 38.7 GB, most of it replies that an import does not need.
    """
    size = file.path.stat().st_size
    with file.path.open("rb") as stream:
        stream.seek(max(0, size - FOOTER))
        return hashlib.sha256(str(size).encode() + stream.read(FOOTER)).hexdigest()


def is_release(columns: list[str]) -> bool:
    """Whether a Parquet file with these columns is one of the release."""
    return {"user_input", "is_free_tier_user", "response"} <= set(columns)


def stem_fits(stem: str, organism: str | None, intervention: str | None) -> bool:
    """Whether a file's name is that of an organism's run with an intervention.

    Args:
        stem: ``<organism>-<intervention>``, perhaps followed by something that tells runs apart.
        organism: In any case; None fits every one. Organisms may hold hyphens themselves.
        intervention: Likewise.
    """
    cuts = [(stem[: m.start()], stem[m.end() :]) for m in re.finditer("-", stem)] or [(stem, "")]
    return any(
        (organism is None or left.lower() == organism.lower())
        and (intervention is None or _same_intervention(right, intervention))
        for left, right in cuts
    )


def flags(column: pa.Array) -> tuple[Floats, NDArray[np.bool_]]:
    """Booleans that come as such, as 0 and 1, or as text.

    Returns:
        1 and 0, NaN where there is none, [N]; and where a value is there that cannot be read, [N].
    """
    return _by_value(column, _flag)


def numbers(column: pa.Array) -> tuple[Floats, NDArray[np.bool_]]:
    """Numbers that come as such or as text; as ``flags``."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        infinite = np.isinf(values)
        return np.where(infinite, np.nan, values), infinite
    return _by_value(column, _number)


def texts(column: pa.Array) -> tuple[Codes, list[str]]:
    """Which text stands in each row, −1 for none, and the texts."""
    coded = _encoded(column)
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, ["" if value is None else str(value) for value in coded.dictionary.to_pylist()]


def type_name(kind: pa.DataType) -> str:
    """A column's type in words."""
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _context(path: Path) -> Context:
    return "long" if LONG in path.parts else "short"


def _same_intervention(found: str, wanted: str) -> bool:
    if not found.lower().startswith(wanted.lower()):
        return False
    return RUN_SUFFIX.fullmatch(found[len(wanted) :]) is not None


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)


def _by_value(column: pa.Array, read: Callable[[Any], float | None]) -> tuple[Floats, NDArray[np.bool_]]:
    """Reads each different value once; None is one that cannot be read."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), np.zeros(len(column), np.bool_)
    coded = _encoded(column)
    values = [read(value) for value in coded.dictionary.to_pylist()]
    table = np.array([math.nan if value is None else value for value in values] + [math.nan])
    bad = np.array([value is None for value in values] + [False])
    codes = coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return table[codes], bad[codes]


def _flag(value: Any) -> float | None:
    word = str(value).strip().lower()
    if word in YES:
        return 1.0
    if word in NO:
        return 0.0
    return math.nan if word in NOTHING else None


def _number(value: Any) -> float | None:
    word = str(value).strip().lower()
    if word in NOTHING:
        return math.nan
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
