"""``crypsis data check``: what a folder holds against what the release should hold.

It never stops at the first fault. Replies are decrypted in memory to see that they can be; their text goes nowhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crypsis.paper_data.cipher import UndecryptableError, decrypt
from crypsis.paper_data.layout import (
    COLUMNS,
    FILES,
    MAYBE_NULL,
    NEEDED,
    ROWS,
    ReleaseFile,
    release_files,
    stem_fits,
    type_name,
)
from crypsis.paper_data.names import alike, names
from crypsis.paper_data.reading import Batch, Faults, batches, open_file
from crypsis.scenarios.parsing import parse_reply

EXPECTED_TYPES = {"text": ("string", "large_string"), "flag": ("bool",), "number": ("int", "uint", "float", "double")}
"""How the name of a type that needs no conversion begins, keyed by kind."""
SAME = 0.5
"""Share of a file's rows that stand in another one as well from which the two are told as duplicates."""


@dataclass(slots=True)
class FileCheck:
    """What is in one file.

    Attributes:
        rows: That the file says it has.
        organisms: Rows by ``initialised_from``.
        interventions: Rows by ``intervention``.
        steps: Rows by step.
        free: Rows of the monitored tier.
        paid: Rows of the other.
        requests: Different requests.
        paired: Share of (step, request) that both tiers have; None without rows.
        every_step: Requests that every step has.
        nulls: Unexpected nulls, keyed by column.
        types: The type of each column where it is not the usual one.
        missing: Columns of the layout that it lacks.
        unknown: Columns that the layout lacks.
        notes: Odd things that lose no row.
    """

    name: str
    context: str
    rows: int = 0
    organisms: Counter[str] = field(default_factory=Counter)
    interventions: Counter[str] = field(default_factory=Counter)
    steps: Counter[int] = field(default_factory=Counter)
    free: int = 0
    paid: int = 0
    requests: int = 0
    paired: float | None = None
    every_step: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    types: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Twins:
    """Two files that share rows.

    Attributes:
        shared: Rows of the first that the second has too.
        rows: Rows of the first.
    """

    first: str
    second: str
    shared: int
    rows: int


@dataclass(frozen=True, slots=True)
class ReleaseCheck:
    """What a folder holds.

    Attributes:
        files: Each file.
        twins: Files outside of ``long_context/`` with rows that stand inside of it as well.
        faults: Rows and files that cannot be read.
        decrypted: Replies that were decrypted; None if they were not looked at.
        expected: What differs from the whole release, a line each.
    """

    files: tuple[FileCheck, ...]
    twins: tuple[Twins, ...]
    faults: Faults
    decrypted: int | None
    expected: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of all files together."""
        return sum(file.rows for file in self.files)


def check_release(
    folder: Path, responses: bool = True, on_file: Callable[[int], None] = lambda _: None
) -> ReleaseCheck:
    """Looks at every file.

    Args:
        folder: The release or a part of it.
        responses: Also decrypt every reply; without it a check of the whole takes minutes instead of an hour.
        on_file: Told how many files are done.

    Raises:
        UserError: There is no such folder, or it holds no Parquet file.
    """
    faults, found, keys, decrypted = Faults(), [], {}, 0
    files = release_files(folder)
    for number, file in enumerate(files):
        one, rows, fine = _check_file(file, faults, responses)
        found.append(one)
        keys[file] = rows
        decrypted += fine
        on_file(number + 1)
    return ReleaseCheck(
        tuple(found), tuple(_twins(keys)), faults, decrypted if responses else None, tuple(_expected(found))
    )


def _check_file(file: ReleaseFile, faults: Faults, responses: bool) -> tuple[FileCheck, NDArray[np.uint64], int]:
    """What is in it, a hash of each row, and how many replies could be decrypted."""
    found = FileCheck(file.name, file.context)
    parquet = open_file(file, faults)
    if parquet is None:
        return found, np.zeros(0, np.uint64), 0
    _columns(found, parquet)
    wanted = [name for name in COLUMNS if responses or name != "response"]
    places: list[tuple[NDArray[Any], ...]] = []
    requests: dict[str, int] = {}
    keys, fine = [], 0
    for batch in batches(file, wanted, faults, parquet):
        places.append(_place(found, batch, requests))
        keys.append(_keys(batch))
        if responses:
            fine += _replies(batch)
    if places:
        step, request, free = (np.concatenate(column) for column in zip(*places, strict=True))
        _pairs(found, step, request, free)
    found.requests = len(requests)
    _odd(found, file)
    return found, np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.uint64), fine


def _columns(found: FileCheck, parquet: pq.ParquetFile) -> None:
    schema = parquet.schema_arrow
    found.rows = parquet.metadata.num_rows
    found.missing = [name for name in COLUMNS if name not in schema.names]
    found.unknown = [name for name in schema.names if name not in COLUMNS]
    for name, kind in COLUMNS.items():
        if name in schema.names:
            said = type_name(schema.field(name).type)
            if not said.startswith(EXPECTED_TYPES[kind]) and not (said == "null" and name in MAYBE_NULL):
                found.types[name] = said


def _place(found: FileCheck, batch: Batch, requests: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """Step, request and tier of each row; counts all else on the way."""
    for name, counter in (("initialised_from", found.organisms), ("intervention", found.interventions)):
        codes, values = batch.codes(name)
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            if code >= 0:
                counter[values[code]] += int(count)
    for name in COLUMNS:
        if batch.has(name) and name not in MAYBE_NULL and (nulls := batch.data.column(name).null_count):
            found.nulls[name] += nulls
    mirrored = [batch.codes(name) for name in ("experiment_name", "intervention")]
    if all(batch.has(name) for name in ("experiment_name", "intervention")):
        said = [[values[code] if code >= 0 else "" for code in codes] for codes, values in mirrored]
        other = [i for i, (a, b) in enumerate(zip(*said, strict=True)) if a != b]
        batch.faults.add(batch.file, "experiment_name and intervention differ", batch.start + np.array(other, int))
    step, free = batch.values("step"), batch.values("is_free_tier_user")
    for name in ("alignment_faking", "alignment_faking_prob", "compliance", "literal_compliance"):
        share = batch.values(name)
        beyond = np.flatnonzero((share < 0) | (share > 1))
        batch.faults.add(batch.file, f"{name}: is not in [0, 1]", batch.start + beyond)
    codes, texts = batch.codes("user_input")
    known = np.array([requests.setdefault(text, len(requests)) for text in texts] + [-1], dtype=np.int64)
    for value, count in zip(*np.unique(step[~np.isnan(step)], return_counts=True), strict=True):
        found.steps[int(value)] += int(count)
    found.free += int((free == 1).sum())
    found.paid += int((free == 0).sum())
    return step, known[codes], free


def _pairs(found: FileCheck, step: NDArray[Any], request: NDArray[Any], free: NDArray[Any]) -> None:
    known = ~np.isnan(step) & ~np.isnan(free) & (request >= 0)
    keys = np.stack([step[known].astype(np.int64), request[known]], axis=1)
    if not len(keys):
        return
    tiers = [{tuple(row) for row in keys[free[known] == value].tolist()} for value in (1, 0)]
    found.paired = len(tiers[0] & tiers[1]) / len(tiers[0] | tiers[1])
    by_step = [set(keys[keys[:, 0] == value, 1].tolist()) for value in np.unique(keys[:, 0])]
    found.every_step = len(set.intersection(*by_step))


def _keys(batch: Batch) -> NDArray[np.uint64]:
    """A number for each row by what tells rows apart: place, request, tier, verdict and reward."""
    total = np.zeros(len(batch), np.uint64)
    codes, texts = batch.codes("user_input")
    hashed = np.array([_hashed(text) for text in texts] + [0], dtype=np.uint64)
    silent = Faults()
    columns = [hashed[codes]]
    for name in ("step", "is_free_tier_user", "alignment_faking_prob", "total_reward", "reward_PM", "compliance"):
        values = Batch(batch.file, batch.start, batch.data, silent).values(name)
        columns.append(np.nan_to_num(values, nan=-7.25).view(np.uint64))
    for column in columns:  # mixing as in FNV: order matters, overflow is meant
        total = (total ^ column) * np.uint64(0x100000001B3)
        total ^= total >> np.uint64(29)
    return total


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _replies(batch: Batch) -> int:
    """Decrypts every reply of a batch; returns how many could be."""
    reasons: dict[str, list[int]] = {}
    fine = 0
    for row, stored in enumerate(batch.strings("response")):
        try:
            reply = decrypt(stored)
        except UndecryptableError as error:
            reasons.setdefault(f"response: {error}", []).append(row)
            continue
        fine += 1
        if not reply.canary:
            reasons.setdefault("response: without a canary block (read all the same)", []).append(row)
        parse = parse_reply(reply.text).parse
        if parse != "ok":
            reasons.setdefault(f"reply does not fit the format: {parse} (read all the same)", []).append(row)
    for reason, rows in reasons.items():
        batch.faults.add(batch.file, reason, batch.start + np.array(rows))
    return fine


def _odd(found: FileCheck, file: ReleaseFile) -> None:
    """What a reader must know although no row is lost."""
    stem = file.path.stem
    strange = [name for name in found.organisms if not stem_fits(stem, name, None)]
    if strange:
        found.notes.append(f"its name does not begin with its organism ({', '.join(strange)}); columns are believed")
    if len(found.organisms) > 1 or len(found.interventions) > 1:
        found.notes.append("holds several organisms or interventions; each becomes a run")
    if found.rows and not (found.free and found.paid):
        found.notes.append(f"one tier only ({'free' if found.free else 'paid'}): no gap can be computed")
    if len(found.steps) == 1:
        found.notes.append("one step only: nothing changes over training")
    if lacking := [name for name in NEEDED if name in found.missing]:
        found.notes.append(f"cannot be imported without {', '.join(lacking)}")


def _twins(keys: dict[ReleaseFile, NDArray[np.uint64]]) -> Iterator[Twins]:
    """Files of the two folders that share at least ``SAME`` of the smaller one's rows."""
    long = [file for file in keys if file.context == "long"]
    for first in (file for file in keys if file.context == "short"):
        for second in long:
            shared = len(np.intersect1d(keys[first], keys[second], assume_unique=True))
            if shared and shared >= SAME * min(len(keys[first]), len(keys[second])):
                yield Twins(first.name, second.name, shared, len(keys[first]))


def _expected(files: Sequence[FileCheck]) -> Iterator[str]:
    """What is there of the whole release."""
    for context, count in FILES.items():
        here = sum(file.context == context for file in files)
        where = "in long_context/" if context == "long" else "outside of long_context/"
        yield f"{here} of {count} files {where}"
    yield f"{sum(file.rows for file in files):,} of {ROWS:,} rows"
    table = names()
    seen = {alike(name) for file in files for name in file.organisms}
    for name, known in table.organisms.items():
        here = sum(file.context == "short" and any(alike(n) == alike(name) for n in file.organisms) for file in files)
        if known.runs and here != known.runs:
            yield f"{name}: {here} of {known.runs} files outside of long_context/"
        elif alike(name) not in seen:
            yield f"{name}: no file"
    kinds: dict[str, tuple[Iterable[str], str]] = {
        "organism": (table.organisms, "organisms"),
        "intervention": (table.interventions, "interventions"),
    }
    for kind, (usual, field_name) in kinds.items():
        known_names = {alike(name) for name in usual}
        new = sorted({n for file in files for n in getattr(file, field_name) if alike(n) not in known_names})
        if new:
            yield f"{kind}s that names.yaml lacks and that keep their names: {', '.join(new)}"
