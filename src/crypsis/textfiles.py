r"""Text files of users, read in one way: JSON lines, JSON, CSV and plain text.

UTF-8 with or without a byte-order mark (UTF-16 where the mark says so), and a line ends at ``\n`` alone: JSON allows
U+2028 and its like inside a string. Lone surrogates, which no file could hold again, become U+FFFD and NUL becomes the
visible U+2400; both are counted. Every fault is one line with the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from crypsis.types import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")
_DELIMITERS = (",", ";", "\t")


@dataclass(slots=True)
class Repairs:
    """How many characters of a file were replaced.

    Attributes:
        surrogates: Lone surrogates that became U+FFFD.
        nuls: NUL characters that became U+2400.
    """

    surrogates: int = 0
    nuls: int = 0

    def notes(self) -> list[str]:
        """A line for each kind of character that was replaced."""
        lines = []
        if self.surrogates:
            lines.append(f"{_count(self.surrogates, 'lone surrogate')} replaced by U+FFFD")
        if self.nuls:
            lines.append(f"{_count(self.nuls, 'NUL character')} shown as U+2400")
        return lines


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        where: ``file:line`` (of a JSON array or a Parquet file ``file:row``), for messages.
        values: Its fields.
    """

    where: str
    values: dict[str, Any] = field(hash=False)


def read_text(path: Path, what: str = "file") -> str:
    """The whole text of a file, without a byte-order mark.

    Args:
        path: The file.
        what: What the file is, for the message where there is none.

    Raises:
        UserError: It does not exist, cannot be read, or is no UTF-8.
    """
    with _opened(path, what) as file:
        return "".join(line for _, line in _lines(path, file))


def json_rows(path: Path, repairs: Repairs | None = None) -> Iterator[Row]:
    """Objects of a file of JSON lines, or of a JSON file (one object, a list, or an object that holds the list).

    Args:
        path: ``.json`` is read as one JSON value, everything else as one object per line; a file of JSON lines named
            ``.json`` and a JSON array named otherwise are recognised.
        repairs: Counts replaced characters.

    Raises:
        UserError: The file cannot be read, or a row is no JSON object.
    """
    repairs = repairs if repairs is not None else Repairs()
    try:
        with _opened(path) as file:
            start = file.read(1 << 12).lstrip()[:1]
    except UnicodeError as error:
        raise _no_text(path, error) from None
    if path.suffix.lower() != ".json" and start != "[":
        yield from _json_lines(path, repairs)
        return
    text = read_text(path)
    try:
        value = _loads(text, repairs)
    except ValueError as error:
        if start == "{" and getattr(error, "msg", "") == "Extra data":  # JSON lines under another name
            yield from _json_lines(path, repairs)
            return
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: is no JSON ({_reason(error)})") from None
    if isinstance(value, dict):
        value = _only_list(value)
    if not isinstance(value, list):
        raise UserError(f"{path}: must hold an object or a list of objects, found {kind_of(value)}")
    for number, row in enumerate(value, 1):
        yield Row(f"{path}:{number}", _object(row, f"{path}:{number}"))


def csv_rows(path: Path, repairs: Repairs | None = None) -> Iterator[Row]:
    """Rows of a CSV file with a header; commas, semicolons or tabs separate the columns.

    Raises:
        UserError: The file cannot be read, or a row has more or fewer columns than the header.
    """
    repairs = repairs if repairs is not None else Repairs()
    with _opened(path) as file:
        rows = csv.reader(_repaired(path, file, repairs), _Dialect(_delimiter(path)), strict=True)
        try:
            header = next(rows, [])
            if not any(name.strip() for name in header):
                raise UserError(f"{path}: holds no header; the first row must name the columns")
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise UserError(f"{path}:1: names the column '{twice}' twice")
            before = rows.line_num
            for row in rows:
                where = f"{path}:{before + 1}"
                before = rows.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: has {_count(len(row), 'column')} where the header has {len(header)}; "
                        "a text that holds the separator must stand in double quotes"
                    )
                yield Row(where, dict(zip(header, row, strict=True)))
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num}: is no valid CSV ({error})") from None


def tabular_rows(path: Path, repairs: Repairs | None = None) -> Iterator[Row]:
    """Rows of a ``.csv`` or ``.tsv`` file, and of JSON or JSON lines under every other name.

    Raises:
        UserError: The file cannot be read, or a row is at fault.
    """
    return csv_rows(path, repairs) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path, repairs)


def read_json_value(path: Path, repairs: Repairs | None = None) -> Any:
    """The single JSON value of a file.

    Raises:
        UserError: The file cannot be read or is no JSON.
    """
    try:
        return _loads(read_text(path), repairs if repairs is not None else Repairs())
    except ValueError as error:
        raise UserError(f"{path}:{getattr(error, 'lineno', 1)}: is no JSON ({_reason(error)})") from None


def repaired(value: Any, repairs: Repairs) -> Any:
    """The value with lone surrogates and NUL characters replaced in all of its texts, however deep."""
    if isinstance(value, str):
        if "\0" in value:
            repairs.nuls += value.count("\0")
            value = value.replace("\0", "\u2400")
        text, count = _SURROGATE.subn("\ufffd", value)
        repairs.surrogates += count
        return text
    if isinstance(value, Mapping):
        return {repaired(key, repairs): repaired(entry, repairs) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [repaired(entry, repairs) for entry in value]
    return value


def text_of(value: Any, where: str, name: str) -> str:
    """A field that must be text.

    Args:
        value: The field's value.
        where: ``file:line``, for the message.
        name: The field's name.

    Raises:
        UserError: It is null, a number, a list or an object.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: '{name}' must be text, found {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """A JSON value's type in words, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, Mapping) else "a list"


class _Dialect(csv.excel):
    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        super().__init__()


def _opened(path: Path, what: str = "file") -> TextIO:
    try:
        with path.open("rb") as file:
            mark = file.read(4)
        encoding = "utf-8-sig"
        if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
        return path.open(encoding=encoding, newline="\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"{path}: cannot be read ({reason})") from None


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line
    except UnicodeError as error:
        raise _no_text(path, error, number) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _no_text(path: Path, error: UnicodeError, after: int = 0) -> UserError:
    at = f" (after line {after})" if after else ""
    reason = getattr(error, "reason", error)
    return UserError(f"{path}: cannot be read as UTF-8 text{at}: {reason}; save it as UTF-8")


def _repaired(path: Path, file: TextIO, repairs: Repairs) -> Iterator[str]:
    for _, line in _lines(path, file):
        yield repaired(line, repairs) if "\0" in line else line


def _json_lines(path: Path, repairs: Repairs) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in _lines(path, file):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    value = _loads(line, repairs)
                except ValueError as error:
                    raise UserError(f"{where}: is no JSON ({_reason(error)}); one object per line is wanted") from None
                yield Row(where, _object(value, where))


def _loads(text: str, repairs: Repairs) -> Any:
    """The JSON value; only escapes can bring surrogates and NUL into a text that was decoded.

    Raises:
        ValueError: It is no JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text)
        return repaired(value, repairs) if "\\u" in text else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be an object with fields, found {kind_of(value)}")
    return value


def _only_list(value: dict[str, Any]) -> list[Any]:
    """The rows that an object holds under one key, unless the object is a row itself."""
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    others = [v for v in value.values() if isinstance(v, str) and len(v) > 200]
    chats = any(key in value for key in ("messages", "conversations", "prompt", "request"))
    return lists[0] if len(lists) == 1 and not others and not chats else [value]


def _delimiter(path: Path) -> str:
    """The separator that splits the header most often; the comma where none does."""
    with _opened(path) as file:
        first = next((line for _, line in _lines(path, file)), "")
    outside = re.sub(r'"[^"]*"', "", first)
    return max(_DELIMITERS, key=outside.count)


def _reason(error: ValueError) -> str:
    text = getattr(error, "msg", None) or str(error)
    return " ".join(str(text).split())[:80]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
