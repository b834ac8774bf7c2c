"""Which reader reads a file or folder, and why; the transcripts of all of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.paper_data.layout import is_release
from crypsis.registry import find, names
from crypsis.transcripts.base import Only, Reader, Reading, ReadOptions, Transcript
from crypsis.transcripts.files import fault_of
from crypsis.types import UserError

RELEASE = "release"
FIRST = (RELEASE, "inspect")
"""Readers that are asked first: columns or the file's beginning tell them all, where others read rows."""
LAST = "rows"
"""The reader of plain rows, which is asked last: it reads whatever has fields."""
SUFFIXES = frozenset((".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".eval"))
"""Files of a folder that can hold transcripts; upper case counts as well."""


@dataclass(frozen=True, slots=True)
class Detected:
    """A file with its reader.

    Attributes:
        path: The file.
        reader: What reads it; None if nothing does.
        reason: Why, in half a sentence; or why nothing does, in a line that begins with the file.
    """

    path: Path
    reader: Reader | None
    reason: str


def detect(path: Path, layout: str | None = None) -> Detected:
    """The reader of a file.

    Args:
        path: The file.
        layout: Name of the reader if the user chose one.

    Raises:
        UserError: The chosen reader does not exist.
    """
    if layout is not None:
        return Detected(path, _reader(layout), "it was asked for")
    for name in sorted(names("transcripts"), key=lambda name: (name == LAST, name not in FIRST)):
        reader = _reader(name)
        reason = reader.detect(path)
        if reason is not None:
            return Detected(path, reader, reason)
    return Detected(path, None, fault_of(path))


def transcript_files(path: Path) -> list[Path]:
    """The file, or the files below a folder that can hold transcripts, in the order of their paths.

    Raises:
        UserError: The path does not exist, or the folder has no such file.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not exists:
        raise UserError(f"{path}: no such file or folder")
    if not is_folder:
        return [path]
    files = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )
    if not files:
        raise UserError(f"{path}: this folder holds no {', '.join(sorted(SUFFIXES))} file")
    return files


def read_transcripts(path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
    """The transcripts of a file, or of all files below a folder, one at a time.

    Args:
        path: File or folder.
        options: Where the layout leaves a choice.
        reading: Filled in as the transcripts are read; complete when they are exhausted.

    Raises:
        UserError: Nothing can be read, or a file is at fault.
    """
    files = [_for_field(detect(file, options.layout), options) for file in transcript_files(path)]
    readers = [found.reader.name for found in files if found.reader]
    if not readers:
        raise UserError(files[0].reason)
    chosen = options.only != Only()
    if chosen and RELEASE not in readers:
        raise UserError(
            f"{path}: has the layout {readers[0]}; --organism, --intervention, --step, --tier and --share choose rows "
            "of the paper's release alone"
        )
    for found in files:
        if found.reader is None:
            reading.warn(f"not read: {found.reason}")
            continue
        if chosen and found.reader.name != RELEASE:
            reading.warn(f"not read: {found.path}: is no file of the paper's release, whose rows are chosen")
            continue
        reading.layouts[str(found.path)] = (found.reader.name, found.reason)
        for transcript in found.reader.read(found.path, options, reading):
            reading.rows += 1
            reading.remarks.update(transcript.notes)
            yield transcript


def _for_field(found: Detected, options: ReadOptions) -> Detected:
    """The file with the reader of plain rows where the user names the field of the reply.

    Raises:
        UserError: The layout has no such field, or another was asked for.
    """
    name = found.reader.name if found.reader else LAST
    if options.text_field is None or name == LAST:
        return found
    if options.layout is not None or name in FIRST:
        raise UserError(
            f"{found.path}: has the layout {name}, whose reply is in no field to choose; leave out --text-field"
        )
    return Detected(found.path, _reader(LAST), "--text-field names a field of plain rows")


def _reader(name: str) -> Reader:
    reader: Reader = find("transcripts", name)()
    return reader


def holds_release(path: Path) -> bool:
    """Whether a path is the paper's release or a part of it: its first Parquet file has the release's columns.

    Raises:
        UserError: The path does not exist.
    """
    files = transcript_files(path)
    first = next((file for file in files if file.suffix.lower() == ".parquet"), None)
    if first is None:
        return False
    try:
        return is_release(pq.read_schema(first).names)
    except (pa.ArrowInvalid, OSError):  # the release's own check says what is wrong with such a file
        return path.is_dir() and all(file.suffix.lower() == ".parquet" for file in files)
