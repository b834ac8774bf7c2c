"""Digests of the files of a folder, so that a lost, cut or changed file is noticed. No torch here.

``digests.jsonl`` has a line for each file (path, bytes, SHA-256), each with a check of its own, and a last line with
their number. It is always written whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crypsis.disk import write_atomic
from crypsis.types import UserError

LEDGER = "digests.jsonl"
SMALL = 64 << 20
"""Bytes up to which a file is read whenever its folder is used; of larger ones the size is looked at, and the digest
when they are loaded."""
SPARE = ("checkpoints/", "state/")
"""States for resuming: a finished folder does not need them, so they may be deleted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was stored.

    Attributes:
        file: Its path in the folder.
        size: Bytes.
        sha256: Of its content, in hex.
    """

    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it was stored.

    Attributes:
        folder: Whose ledger lists it.
        file: Its path in the folder.
        what: What is wrong with it.
    """

    folder: Path
    file: str
    what: str


class DamagedError(UserError):
    """A stored file is damaged or lost, and cannot be made again from what is left."""

    def __init__(self, damage: Damage, advice: str) -> None:
        super().__init__(f"{damage.folder / damage.file}: {damage.what}; {advice}")


Entries = Mapping[str, Entry]


def describe(folder: Path, path: Path) -> Entry:
    """A file as it is now."""
    return Entry(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))


def read_ledger(folder: Path) -> dict[str, Entry] | None:
    """What a folder stored, by path; None for a folder without a ledger.

    Raises:
        DamagedError: The ledger itself is damaged.
    """
    path = folder / LEDGER
    if not path.exists():
        return None
    try:
        *rows, last = [json.loads(line) for line in path.read_bytes().decode().splitlines()]
        checks = [row.pop("check") for row in (*rows, last)]
        if checks != [_check(row) for row in (*rows, last)] or last != {"files": len(rows)}:
            raise ValueError
        return {row["file"]: Entry(**row) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise DamagedError(Damage(folder, LEDGER, "is damaged"), start_anew(folder)) from None


def ledger_text(entries: Entries) -> str:
    """The ledger as it is written."""
    rows: list[dict[str, Any]] = [*(asdict(entries[file]) for file in sorted(entries)), {"files": len(entries)}]
    return "".join(json.dumps(row | {"check": _check(row)}) + "\n" for row in rows)


def damages(folder: Path, deep: bool = False, nested: bool = True) -> list[Damage]:
    """Every listed file of a folder that is not as it was stored.

    Args:
        folder: Without a ledger nothing is found.
        deep: Also read files larger than ``SMALL``.
        nested: Also those that the ledgers of folders in it list.

    Raises:
        DamagedError: The ledger itself is damaged.
    """
    found: list[Damage] = []
    for entry in (read_ledger(folder) or {}).values():
        what = _compared(folder, entry, deep)
        if what:
            found.append(Damage(folder, entry.file, what))
        elif nested and entry.file.endswith(f"/{LEDGER}"):
            inner = entry.file.removesuffix(LEDGER)
            found += [Damage(folder, inner + d.file, d.what) for d in damages(folder / inner, deep)]
    return found


def is_sound(folder: Path, path: Path) -> bool:
    """Whether a file is there as it was stored; in a folder without a ledger, whether it is there.

    Raises:
        DamagedError: The ledger is damaged.
    """
    entries = read_ledger(folder)
    if entries is None:
        return path.exists()
    entry = entries.get(path.relative_to(folder).as_posix())
    return entry is not None and not _compared(folder, entry, deep=True)


def record(folder: Path, *paths: Path) -> None:
    """Notes the digests of files of a folder as they are now."""
    entries = read_ledger(folder) or {}
    for path in paths:
        entry = describe(folder, path)
        entries[entry.file] = entry
    write_atomic(folder / LEDGER, ledger_text(entries))


def record_again(folder: Path, path: Path) -> None:
    """Notes the digest of a file that may have been there before; then it must be the same.

    Raises:
        UserError: It was made again and differs: other software, another machine, or other inputs.
    """
    before = (read_ledger(folder) or {}).get(path.relative_to(folder).as_posix())
    if before is not None and before != describe(folder, path):
        path.unlink()
        raise UserError(
            f"{path}: was damaged or lost, and made again it differs (other software, machine or inputs); delete the "
            f"folder {folder} and run the same command again to compute all of it here"
        )
    record(folder, path)


def forget(folder: Path, *paths: Path) -> None:
    """Drops the digests of files that are about to be written anew; a folder without a ledger is left as it is."""
    entries = read_ledger(folder)
    if entries is not None:
        names = {path.relative_to(folder).as_posix() for path in paths}
        write_atomic(folder / LEDGER, ledger_text({name: e for name, e in entries.items() if name not in names}))


def start_anew(folder: Path) -> str:
    """What to do about a folder whose result cannot be trusted any more."""
    return f"delete the folder {folder} and run the same command again, which gives the same numbers"


def _compared(folder: Path, entry: Entry, deep: bool) -> str:
    """What is wrong with a file, empty if nothing is."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"is damaged ({size} bytes of {entry.size})"
        if (deep or size <= SMALL) and _sha256(path) != entry.sha256:
            return "is damaged (its content is not what was stored)"
    except (FileNotFoundError, NotADirectoryError):
        return "" if entry.file.startswith(SPARE) else "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:8]
